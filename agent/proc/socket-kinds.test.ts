import { expect, test } from 'vitest';
import { kindCheck } from './socket-kinds.ts';

const DESCRIPTOR = { pid: 100, fd: 5, link: 'socket:[1]' };

test.each(['unix', 'netlink', 'TCP', 'TCPv6', 'UNIX-STREAM', 'NETLINK'])('%s moves', (kind) => {
  expect(kindCheck(kind, DESCRIPTOR)).toBeUndefined();
});

test.each([
  ['raw6', 'a raw socket'],
  ['RAWv6', 'a raw socket'],
  ['packet', 'AF_PACKET'],
  ['icmp6', 'ICMP'],
  ['PINGv6', 'ICMP'],
  ['UDPLITEv6', 'UDP-Lite'],
  ['UDP-Lite', 'UDP-Lite'],
  ['SCTP', 'SCTP'],
  ['SCTPv6', 'SCTP'],
  ['AF_VSOCK', 'VSOCK'],
  ['ALG', 'AF_ALG'],
  ['XDP', 'AF_XDP'],
  ['CAN_RAW', 'of the kind CAN_RAW'],
])('%s is refused as %s, with process and descriptor', (kind, what) => {
  const check = kindCheck(kind, DESCRIPTOR);
  expect(check).toMatchObject({ name: 'sockets', ok: false });
  expect(check?.message).toContain('process 100 has');
  expect(check?.message).toContain('(fd 5)');
  expect(check?.message).toContain(what);
});

test('MPTCP is a check of its own', () => {
  expect(kindCheck('MPTCPv6', DESCRIPTOR)).toMatchObject({ name: 'mptcp', ok: false });
});
