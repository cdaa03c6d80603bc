/** Where packets to an address leave this host, and with which address of ours; from ip-route(8). */
import { type NetworkInterfaceInfo, networkInterfaces } from 'node:os';
import { execa } from 'execa';
import { OsmosisError } from '../error.ts';

const ANSWER_MS_MAX = 5_000;

export type Route = {
  readonly device: string;
  readonly ifindex: number;
  readonly source: string;
  readonly mtu: number;
  readonly isLocal: boolean;
};

/** @throws OsmosisError DATAPATH where there is no route. */
export async function routeTo(address: string, from?: string): Promise<Route> {
  const { stdout, failed, stderr } = await execa(
    'ip',
    ['-json', 'route', 'get', address, ...(from === undefined ? [] : ['from', from])],
    { reject: false, timeout: ANSWER_MS_MAX },
  );
  const [route] = failed ? [] : (JSON.parse(stdout) as { dev?: string; prefsrc?: string; type?: string }[]);
  if (route?.dev === undefined) {
    throw new OsmosisError(
      'DATAPATH',
      `this host has no route to ${address}: ${stderr.trim()}; mend the routes first`,
    );
  }
  const link = await linkNamed(route.dev);
  return {
    device: route.dev,
    ifindex: link.ifindex,
    mtu: link.mtu,
    source: route.prefsrc ?? from ?? '',
    isLocal: route.type === 'local',
  };
}

async function linkNamed(name: string): Promise<{ ifindex: number; mtu: number }> {
  const { stdout } = await execa('ip', ['-json', 'link', 'show', 'dev', name], { timeout: ANSWER_MS_MAX });
  const [link] = JSON.parse(stdout) as { ifindex: number; mtu: number }[];
  if (link === undefined) throw new OsmosisError('DATAPATH', `the device ${name} is gone`);
  return link;
}

/** Every address of this host, loopback ones left out. */
export async function ownAddresses(): Promise<string[]> {
  const { stdout } = await execa('ip', ['-json', 'addr', 'show', 'scope', 'global'], {
    timeout: ANSWER_MS_MAX,
  });
  const links = JSON.parse(stdout) as { addr_info?: { local?: string }[] }[];
  return links.flatMap(({ addr_info = [] }) => addr_info.flatMap(({ local }) => local ?? []));
}

/** Devices with Ethernet headers that are up and have an address of this host. */
export async function ethernetDevices(): Promise<string[]> {
  const { stdout } = await execa('ip', ['-json', 'addr', 'show', 'up', 'scope', 'global'], {
    timeout: ANSWER_MS_MAX,
  });
  return parseEthernetDevices(stdout);
}

/** Of the JSON of ip-address(8). */
export function parseEthernetDevices(text: string): string[] {
  const links = JSON.parse(text) as { ifname?: string; link_type?: string; addr_info?: unknown[] }[];
  return links.flatMap(({ ifname, link_type, addr_info = [] }) =>
    ifname !== undefined && link_type === 'ether' && addr_info.length > 0 ? ifname : [],
  );
}

/** Asked of the kernel at each call; cheap. */
export function isOwnAddress(address: string): boolean {
  return ownInterfaceAddresses().some((own) => own.address === address);
}

/**
 * An address of this host that others can reach: `address` itself where it is one, otherwise the first of its family.
 * OsmosisError DATAPATH where there is none.
 */
export function ownAddressLike(address: string): string {
  const others = ownInterfaceAddresses().filter(({ internal, scopeid }) => !internal && !scopeid);
  const isV6 = address.includes(':');
  const found =
    others.find((own) => own.address === address) ?? others.find((own) => (own.family === 'IPv6') === isV6);
  if (found !== undefined) return found.address;
  const family = isV6 ? 'IPv6' : 'IPv4';
  throw new OsmosisError(
    'DATAPATH',
    `this host has no ${family} address that other hosts can reach; a connection over its loopback device can't be carried on`,
    { phase: 'prepare' },
  );
}

/** Loopback ones included. */
export function ownInterfaceAddresses(): NetworkInterfaceInfo[] {
  return Object.values(networkInterfaces()).flatMap((each) => each ?? []);
}
