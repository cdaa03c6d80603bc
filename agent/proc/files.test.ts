import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { temporaryDirectory } from '../test-support.ts';
import { fileFact, filesOf, mappedFiles } from './files.ts';

const MAPS = `55d0c8a00000-55d0c8a2a000 r--p 00000000 fe:00 1234                       /usr/bin/my server
55d0c8a2a000-55d0c8a60000 r-xp 0002a000 fe:00 1234                       /usr/bin/my server
55d0ca000000-55d0ca021000 rw-p 00000000 00:00 0                          [heap]
7f2c40000000-7f2c40021000 rw-p 00000000 00:00 0 
7f2c4a000000-7f2c4a100000 rw-s 00000000 00:01 2049                       /memfd:buffer (deleted)
7f2c4a100000-7f2c4a200000 rw-s 00000000 00:01 3                          /SYSV00000000 (deleted)
7f2c4a200000-7f2c4a300000 rw-s 00000000 00:05 7                          /dev/zero (deleted)
7f2c4a300000-7f2c4a400000 rw-s 00000000 00:06 8                          /dev/shm/cache
7f2c4a400000-7f2c4a500000 r--p 00000000 fe:00 99                         /tmp/gone (deleted)
7f2c4b000000-7f2c4b001000 r-xp 00000000 fe:00 77                         /lib/x86_64-linux-gnu/libc.so.6
7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0                          [stack]
`;

test('files among the mappings, once each; what is deleted or lives in memory is left out', () => {
  expect(mappedFiles(MAPS)).toEqual(['/usr/bin/my server', '/lib/x86_64-linux-gnu/libc.so.6']);
});

const NOTE = Buffer.concat([
  Buffer.from([4, 0, 0, 0, 20, 0, 0, 0, 3, 0, 0, 0]),
  Buffer.from('GNU\0'),
  Buffer.alloc(20, 0xab),
]);

test('a build id is read from the front of an ELF file only', () => {
  const root = temporaryDirectory();
  const elf = Buffer.concat([Buffer.from('\x7fELF', 'latin1'), Buffer.alloc(600), NOTE]);
  const files = {
    elf,
    text: Buffer.from('text'),
    cut: elf.subarray(0, -1),
    late: Buffer.concat([Buffer.from('\x7fELF', 'latin1'), Buffer.alloc(5000), NOTE]),
  };
  for (const [name, bytes] of Object.entries(files)) writeFileSync(join(root, name), bytes);
  expect(fileFact(root, '/elf', 'mapped')).toEqual({
    path: '/elf',
    kind: 'mapped',
    size: elf.length,
    build_id: 'ab'.repeat(20),
  });
  expect(fileFact(root, '/elf', 'open')).toEqual({ path: '/elf', kind: 'open', size: elf.length });
  for (const name of ['/text', '/cut', '/late'])
    expect(fileFact(root, name, 'executable')).not.toHaveProperty('build_id');
});

test('directories, devices, links and nothing', () => {
  const root = temporaryDirectory();
  mkdirSync(join(root, 'd'));
  symlinkSync('nowhere', join(root, 'dangling'));
  expect(fileFact(root, '/d', 'open')).toEqual({ path: '/d', kind: 'directory' });
  expect(fileFact(root, '/dangling', 'open')).toBeUndefined();
  expect(fileFact(root, '/missing', 'open')).toBeUndefined();
  expect(fileFact('', '/dev/null', 'open')).toEqual({ path: '/dev/null', kind: 'device' });
});

test('this process has its executable, its libraries and its working directory', () => {
  const files = filesOf([process.pid]);
  expect(files[0]).toMatchObject({ path: process.execPath, kind: 'executable' });
  expect(files).toContainEqual({ path: process.cwd(), kind: 'directory' });
  expect(files.filter(({ path }) => path.includes('libc.so')).length).toBe(1);
  expect(new Set(files.map(({ path }) => path)).size).toBe(files.length);
});
