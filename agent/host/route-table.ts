/** The whole routing table of this host, as new flows of its cells need it; from ip-route(8) and ip-address(8). */
import { execa } from 'execa';
import { addressBytes, isLinkLocal, isLoopback } from '../address.ts';

const ANSWER_MS_MAX = 5_000;

/** Where packets to addresses that begin with `bits` bits of `prefix` leave, and with which address of this host's. */
export type PrefixRoute = {
  readonly prefix: string;
  readonly bits: number;
  readonly device: string;
  readonly ifindex: number;
  readonly mtu: number;
  readonly address: string;
};

type Json = Record<string, unknown>;
type Device = {
  readonly name: string;
  readonly ifindex: number;
  readonly mtu: number;
  readonly isEthernet: boolean;
  readonly addresses: readonly { readonly address: string; readonly bits: number }[];
};

/** Tables `main` and `local`: rules of ip-rule(8) beyond the usual ones are not followed. */
export async function prefixRoutes(): Promise<PrefixRoute[]> {
  const [addresses = '', v4 = '', v6 = ''] = await Promise.all(
    [
      ['addr', 'show', 'up'],
      ['-4', 'route', 'show', 'table', 'main'],
      ['-6', 'route', 'show', 'table', 'main'],
    ].map(async (args) => (await execa('ip', ['-json', ...args], { timeout: ANSWER_MS_MAX })).stdout),
  );
  return parsePrefixRoutes(addresses, v4, v6);
}

/**
 * The JSON of `ip addr show`, `ip -4 route show` and `ip -6 route show`. Left out: link-local routes, those that refuse,
 * and those by devices without Ethernet headers, which the datapath can't be attached to. Of several routes to one prefix
 * the kernel takes the first, which has the lowest metric.
 */
export function parsePrefixRoutes(addresses: string, v4: string, v6: string): PrefixRoute[] {
  const devices = parseDevices(addresses);
  const lo = devices.find(({ name }) => name === 'lo');
  const routes = [
    ...list(v4).flatMap((route) => routeOf(route, false, devices) ?? []),
    ...list(v6).flatMap((route) => routeOf(route, true, devices) ?? []),
    ...(lo === undefined
      ? []
      : devices.flatMap((device) => device.addresses.map((own) => ownRoute(own.address, lo)))),
  ];
  const firsts = new Map(routes.toReversed().map((route) => [`${route.prefix}/${route.bits}`, route]));
  return [...firsts.values()];
}

/** An own address is reached by way of the loopback device. */
function ownRoute(address: string, { name, ifindex, mtu }: Device): PrefixRoute {
  return { prefix: address, bits: address.includes(':') ? 128 : 32, device: name, ifindex, mtu, address };
}

function routeOf(route: Json, isV6: boolean, devices: readonly Device[]): PrefixRoute | undefined {
  const { dst, type = 'unicast', flags = [] } = route;
  const dead = Array.isArray(flags) && flags.some((flag) => flag === 'dead' || flag === 'linkdown');
  if (typeof dst !== 'string' || type !== 'unicast' || dead) return undefined;
  const [hop = route] = list(route.nexthops);
  const device = devices.find(({ name }) => name === hop.dev);
  const [prefix = '', bits] = dst === 'default' ? [isV6 ? '::' : '0.0.0.0', '0'] : dst.split('/');
  if (device === undefined || !device.isEthernet || isLinkLocal(prefix) || prefix.startsWith('ff'))
    return undefined;
  const gateway = [hop.gateway, (hop.via as Json | undefined)?.host].find((each) => typeof each === 'string');
  const near = typeof gateway === 'string' && !isLinkLocal(gateway) ? gateway : prefix;
  const address = typeof route.prefsrc === 'string' ? route.prefsrc : sourceFor(near, isV6, device, devices);
  if (address === undefined) return undefined;
  const { name, ifindex, mtu } = device;
  return { prefix, bits: Number(bits ?? (isV6 ? 128 : 32)), device: name, ifindex, mtu, address };
}

/** As the kernel chooses, in the main: an address of the device in the network of the next hop, or its first one. */
function sourceFor(
  near: string,
  isV6: boolean,
  device: Device,
  devices: readonly Device[],
): string | undefined {
  const usable = ({ address }: { readonly address: string }) => address.includes(':') === isV6;
  const own = device.addresses.filter(usable);
  const there = own.find(({ address, bits }) => beginAlike(address, near, bits + (isV6 ? 0 : 96)));
  return (there ?? own[0] ?? devices.flatMap(({ addresses }) => addresses).find(usable))?.address;
}

function beginAlike(left: string, right: string, bits: number): boolean {
  const [a, b] = [addressBytes(left), addressBytes(right)];
  return a.every((byte, index) => {
    const rest = Math.min(Math.max(bits - index * 8, 0), 8);
    return (byte ^ (b[index] ?? 0)) >> (8 - rest) === 0;
  });
}

function parseDevices(text: string): Device[] {
  return list(text).flatMap((link) => {
    const { ifname, ifindex, mtu, link_type } = link;
    if (typeof ifname !== 'string' || typeof ifindex !== 'number' || typeof mtu !== 'number') return [];
    const addresses = list(link.addr_info).flatMap(({ local, prefixlen, scope, deprecated, tentative }) => {
      const usable = typeof local === 'string' && !isLoopback(local) && scope === 'global';
      return usable && deprecated !== true && tentative !== true
        ? [{ address: local, bits: Number(prefixlen) }]
        : [];
    });
    return [{ name: ifname, ifindex, mtu, isEthernet: link_type === 'ether', addresses }];
  });
}

function list(value: unknown): Json[] {
  const parsed: unknown = typeof value === 'string' ? JSON.parse(value || '[]') : value;
  return Array.isArray(parsed)
    ? parsed.filter((each): each is Json => typeof each === 'object' && each !== null)
    : [];
}
