import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { temporaryDirectory } from '../test-support.ts';
import { ioUringFilter, withoutIoUring, withoutMptcp, writeIoUringFilter } from './movable.ts';

it('is this filter, byte for byte', () => {
  expect(ioUringFilter().toString('hex').match(/.{16}/g)).toEqual([
    '2000000000000000',
    '15000001a9010000',
    '0600000026000500',
    '060000000000ff7f',
  ]);
});

it('is put before the program', () => {
  const directory = temporaryDirectory();
  writeIoUringFilter(directory);
  expect(withoutIoUring(directory, ['node', '--version'])).toEqual([
    'setpriv',
    '--seccomp-filter',
    `${directory}/no-io-uring.bpf`,
    '--',
    'node',
    '--version',
  ]);
  expect(readFileSync(`${directory}/no-io-uring.bpf`)).toEqual(ioUringFilter());
});

it.each([
  [{}, 'multipathtcp=0'],
  [{ GODEBUG: '' }, 'multipathtcp=0'],
  [{ GODEBUG: 'http2client=0,multipathtcp=2' }, 'http2client=0,multipathtcp=0'],
])('turns MPTCP off in %o', (env, GODEBUG) => {
  expect(withoutMptcp({ HOME: '/', ...env })).toEqual({ HOME: '/', GODEBUG });
});
