import { expect, test } from 'vitest';
import type { SocketRecord } from '../datapath/socket-layout.ts';
import { congestionCheck, groupsOf, optionChecks } from './socket-options.ts';

const ESTABLISHED = 1;
const CLOSED = 7;

function recordWith(changes: Partial<SocketRecord> = {}): SocketRecord {
  return {
    inode: 1,
    local: { address: '10.77.1.2', port: 7000 },
    remote: { address: '10.77.4.2', port: 51_000 },
    type: 1,
    protocol: 6,
    state: ESTABLISHED,
    options: { congestion: 'bbr', values: { TCP_WINDOW_CLAMP: 64_000, SO_REUSEPORT: 1 } },
    lost: [],
    refused: [],
    ulp: '',
    device: 0,
    ...changes,
  };
}

function checks(changes: Partial<SocketRecord>) {
  const holders = new Map([[1, { pid: 100, fd: 5, link: 'socket:[1]' }]]);
  return optionChecks(
    [recordWith(changes)],
    holders,
    new Map([
      [2, 'eth0'],
      [3, 'wg0'],
    ]),
  );
}

const failed = (changes: Partial<SocketRecord>) =>
  checks(changes).flatMap(({ ok, message }) => (ok ? [] : [message]));

test('what can be restored is not mentioned; the state of a connection is', () => {
  expect(checks({})).toEqual([
    { name: 'socket options', ok: true, message: expect.stringContaining('round-trip estimate') },
  ]);
});

test('a lost option is named with its process and descriptor', () => {
  const [lost] = checks({ lost: ['TCP_DEFER_ACCEPT'] });
  expect(lost).toMatchObject({ ok: true });
  expect(lost?.message).toContain('TCP_DEFER_ACCEPT is not kept: process 100 fd 5');
});

test('of a socket that no iterator finds later everything is lost', () => {
  const options = { congestion: 'bbr', values: { TCP_USER_TIMEOUT: 5, SO_REUSEPORT: 1 } };
  const messages = checks({ state: CLOSED, options }).map(({ message }) => message);
  expect(messages.join()).toContain('TCP_USER_TIMEOUT is not kept');
  expect(messages.join()).not.toContain('SO_REUSEPORT');
  expect(groupsOf([recordWith({ state: CLOSED })])).toEqual([]);
});

test('refused: kernel TLS, signatures, repair, eBPF filters, foreign devices', () => {
  expect(failed({ ulp: 'tls' })[0]).toMatch(/process 100 fd 5 .*kTLS/);
  expect(failed({ ulp: 'espintcp' })[0]).toContain('espintcp');
  expect(failed({ refused: ['TCP_MD5SIG'] })[0]).toContain('TCP_MD5SIG');
  expect(failed({ refused: ['TCP_REPAIR'] })[0]).toContain('TCP_REPAIR');
  expect(failed({ refused: ['SO_ATTACH_BPF'] })[0]).toContain('SO_ATTACH_BPF');
  expect(failed({ device: 3 })[0]).toContain('wg0');
  expect(failed({ device: 2 })).toEqual([]);
});

test('sockets with the same options share a group', () => {
  const other = recordWith({ remote: { address: '10.77.4.2', port: 51_001 } });
  const third = recordWith({ options: { congestion: 'reno', values: {} } });
  expect(groupsOf([recordWith(), other, third]).map(({ sockets }) => sockets.length)).toEqual([2, 1]);
});

test('a congestion control that the destination lacks', () => {
  const groups = groupsOf([recordWith()]);
  expect(congestionCheck(groups, ['reno', 'bbr']).filter(({ message }) => message.includes('bbr'))).toEqual(
    [],
  );
  expect(congestionCheck([], [])).toEqual([]);
});
