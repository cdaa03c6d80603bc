import { expect, it } from 'vitest';
import { parsePrefixRoutes } from './route-table.ts';

const address = (local: string, prefixlen: number, scope = 'global') => ({ local, prefixlen, scope });
const ADDRESSES = JSON.stringify([
  {
    ifname: 'lo',
    ifindex: 1,
    mtu: 65_536,
    link_type: 'loopback',
    addr_info: [address('127.0.0.1', 8, 'host')],
  },
  {
    ifname: 'eth0',
    ifindex: 2,
    mtu: 1_500,
    link_type: 'ether',
    addr_info: [
      address('10.0.0.2', 24),
      address('10.0.1.2', 24),
      address('fd00::2', 64),
      address('fe80::2', 64, 'link'),
    ],
  },
  { ifname: 'wg0', ifindex: 3, mtu: 1_420, link_type: 'none', addr_info: [address('10.9.0.2', 24)] },
]);
const rows = (v4: object[], v6: object[] = []) =>
  parsePrefixRoutes(ADDRESSES, JSON.stringify(v4), JSON.stringify(v6)).map(
    ({ prefix, bits, device, address: source }) => `${prefix}/${bits} ${device} ${source}`,
  );

it('each route has its device and the address that the kernel would choose', () => {
  const found = rows(
    [
      { dst: 'default', gateway: '10.0.1.1', dev: 'eth0', flags: [] },
      { dst: '10.0.0.0/24', dev: 'eth0', prefsrc: '10.0.0.2', flags: [] },
      { dst: '10.5.0.1', nexthops: [{ gateway: '10.0.0.1', dev: 'eth0' }] },
    ],
    [
      { dst: 'default', gateway: 'fe80::1', dev: 'eth0' },
      { dst: 'fe80::/64', dev: 'eth0' },
    ],
  );
  expect(found).toEqual(
    expect.arrayContaining([
      '0.0.0.0/0 eth0 10.0.1.2',
      '10.0.0.0/24 eth0 10.0.0.2',
      '10.5.0.1/32 eth0 10.0.0.2',
      '::/0 eth0 fd00::2',
      '10.0.0.2/32 lo 10.0.0.2',
      'fd00::2/128 lo fd00::2',
    ]),
  );
  expect(found.filter((row) => row.startsWith('fe80'))).toEqual([]);
});

it('of two routes to one prefix the first counts; dead ones, refusing ones and tunnels do not', () => {
  const found = rows([
    { dst: 'default', gateway: '10.0.0.1', dev: 'eth0', metric: 10 },
    { dst: 'default', gateway: '10.0.1.1', dev: 'eth0', metric: 20 },
    { dst: '10.6.0.0/16', type: 'unreachable', dev: 'lo' },
    { dst: '10.7.0.0/16', dev: 'wg0' },
    { dst: '10.8.0.0/16', dev: 'eth0', flags: ['linkdown'] },
  ]);
  expect(found.filter((row) => !row.includes(' lo '))).toEqual(['0.0.0.0/0 eth0 10.0.0.2']);
});
