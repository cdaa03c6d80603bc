import { expect, test } from 'vitest';
import { cellNetworkBatch, holderArgv, isInitAlive } from './namespaces.ts';

test('the holder makes PID and mount namespaces, and a network namespace where asked', () => {
  const shared = ['--pid', '--fork', '--mount', '--mount-proc', '--kill-child', 'catatonit', '-P'];
  expect(holderArgv(false)).toEqual(['unshare', ...shared]);
  expect(holderArgv(true)).toEqual(['unshare', '--net', ...shared]);
});

test('a cell with IPv4 addresses has one default route through the host end of its veth', () => {
  expect(cellNetworkBatch(['10.77.1.2', '10.77.9.9'], '02:00:00:00:00:01', 1400)).toBe(`link set lo up
link set eth0 mtu 1400
link set eth0 addrgenmode none
link set eth0 up
addr add 10.77.1.2/32 dev eth0
addr add 10.77.9.9/32 dev eth0
neigh replace 169.254.1.1 lladdr 02:00:00:00:00:01 nud permanent dev eth0
route replace default via 169.254.1.1 dev eth0 onlink
`);
});

test('an IPv6 address brings a default route of its own, and no duplicate address detection', () => {
  const lines = cellNetworkBatch(['2001:db8::1'], '02:00:00:00:00:01', 1500).split('\n');
  expect(lines).toContain('addr add 2001:db8::1/128 dev eth0 nodad');
  expect(lines).toContain('route replace default via fe80::1 dev eth0 onlink');
  expect(lines.indexOf('neigh replace fe80::1 lladdr 02:00:00:00:00:01 nud permanent dev eth0')).toBeLessThan(
    lines.indexOf('route replace default via fe80::1 dev eth0 onlink'),
  );
});

test('a pid that is somebody else’s by now is no init', () => {
  expect(isInitAlive({ holder: 1, pid: process.pid, ticks: 1 })).toBe(false);
  expect(isInitAlive({ holder: 1, pid: 2 ** 30, ticks: 1 })).toBe(false);
});
