/** Against ip(8) of this host, loopback only. */
import { execaSync } from 'execa';
import { describe, expect, test } from 'vitest';
import { isLoopback } from '../address.ts';
import { ownAddresses, parseEthernetDevices, routeTo } from './routes.ts';

const hasIp = !execaSync('ip', ['-Version'], { reject: false }).failed;
if (!hasIp) console.warn('SKIPPED: routes are not tested, this machine has no ip(8)');

describe.skipIf(!hasIp)('routes', () => {
  test('to itself this host goes by its loopback', async () => {
    expect(await routeTo('127.0.0.1')).toEqual({
      device: 'lo',
      ifindex: 1,
      source: '127.0.0.1',
      mtu: expect.toSatisfy((mtu: number) => mtu >= 1280),
      isLocal: true,
    });
  });

  test('the address that packets come from may be asked for', async () => {
    expect(await routeTo('127.0.0.1', '127.0.0.2')).toMatchObject({ device: 'lo', isLocal: true });
  });

  test('what is no address, or has no route, is DATAPATH with the words of ip', async () => {
    await expect(routeTo('nowhere')).rejects.toMatchObject({
      code: 'DATAPATH',
      message: expect.stringContaining('no route to nowhere'),
    });
  });

  test('own addresses are there without those of the loopback', async () => {
    const addresses = await ownAddresses();
    expect(addresses.filter(isLoopback)).toEqual([]);
    for (const address of addresses) expect((await routeTo(address)).isLocal).toBe(true);
  });
});

test('devices with Ethernet headers and an address', () => {
  const links = [
    { ifname: 'lo', link_type: 'loopback', addr_info: [{ local: '10.0.0.9' }] },
    { ifname: 'eth0', link_type: 'ether', addr_info: [{ local: '10.77.1.2' }] },
    { ifname: 'osm1234abcd', link_type: 'ether', addr_info: [] },
    { ifname: 'wg0', link_type: 'none', addr_info: [{ local: '10.9.0.1' }] },
    {},
  ];
  expect(parseEthernetDevices(JSON.stringify(links))).toEqual(['eth0']);
});
