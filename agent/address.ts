/** Addresses and endpoints as every module of Osmosis passes them around. */
import { isIP, isIPv4 } from 'node:net';

export const PROTOCOLS = ['tcp', 'udp'] as const;
export type Protocol = (typeof PROTOCOLS)[number];

/** Textual IP address (an IPv4-mapped IPv6 address is always written as IPv4) and port 0..65535. */
export type Endpoint = { readonly address: string; readonly port: number };

/** One connection as the transport sees it: protocol and the two virtual endpoints, `local` being the cell's or host's own. */
export type Flow = { readonly protocol: Protocol; readonly local: Endpoint; readonly remote: Endpoint };

/**
 * A flow of a cell, and where its remote end is on the wire now: `remote` itself unless that end has moved as well, or is
 * reached through another host. The agent at `at.address` is the one to talk to.
 */
export type PlacedFlow = Flow & {
  readonly at: Endpoint;
  /** The host at `at` carries it on for a peer without an agent. */
  readonly relayed?: boolean | undefined;
  /** What the other end takes for our endpoint, where that is not `local`: the flow began when the cell had moved already. */
  readonly known?: Endpoint | undefined;
};

/** The flow by the name that both ends have for it: ours with the endpoint that the other end knows. */
export function knownFlow({ protocol, local, remote, known }: Flow & Pick<PlacedFlow, 'known'>): Flow {
  return { protocol, local: known ?? local, remote };
}

export const ADDRESS_BYTES = 16;

/** 16 bytes in network order; IPv4 as ::ffff:a.b.c.d, so that both families share one layout everywhere. */
export function addressBytes(address: string): Uint8Array {
  const bytes = new Uint8Array(ADDRESS_BYTES);
  if (isIPv4(address)) {
    bytes[10] = 0xff;
    bytes[11] = 0xff;
    bytes.set(address.split('.').map(Number), 12);
    return bytes;
  }
  if (isIP(address) !== 6 || address.includes('%')) throw new RangeError(`not an IP address: ${address}`);
  const dotted = /^(.*:)(\d+\.\d+\.\d+\.\d+)$/.exec(address);
  if (dotted?.[1] !== undefined && dotted[2] !== undefined) {
    const [a = 0, b = 0, c = 0, d = 0] = dotted[2].split('.').map(Number);
    return addressBytes(`${dotted[1]}${((a << 8) | b).toString(16)}:${((c << 8) | d).toString(16)}`);
  }
  const [head = '', tail] = address.split('::');
  const groups = (part: string) =>
    part === '' ? [] : part.split(':').map((group) => Number.parseInt(group, 16));
  const front = groups(head);
  const back = tail === undefined ? [] : groups(tail);
  const all = [...front, ...new Array<number>(8 - front.length - back.length).fill(0), ...back];
  all.forEach((group, index) => {
    bytes[index * 2] = group >> 8;
    bytes[index * 2 + 1] = group & 0xff;
  });
  return bytes;
}

/** The reverse of addressBytes: dotted quad for mapped addresses, RFC 5952 text otherwise. */
export function addressText(bytes: Uint8Array): string {
  if (bytes.length !== ADDRESS_BYTES)
    throw new RangeError(`an address has ${ADDRESS_BYTES} bytes, got ${bytes.length}`);
  const mapped =
    bytes.subarray(0, 10).every((byte) => byte === 0) && bytes[10] === 0xff && bytes[11] === 0xff;
  if (mapped) return bytes.subarray(12).join('.');
  const groups: string[] = [];
  for (let index = 0; index < ADDRESS_BYTES; index += 2) {
    groups.push((((bytes[index] ?? 0) << 8) | (bytes[index + 1] ?? 0)).toString(16));
  }
  return new URL(`http://[${groups.join(':')}]`).hostname.slice(1, -1);
}

/** `a.b.c.d:port` or `[v6]:port`. */
export function endpointText({ address, port }: Endpoint): string {
  return address.includes(':') ? `[${address}]:${port}` : `${address}:${port}`;
}

export function isSameEndpoint(a: Endpoint, b: Endpoint): boolean {
  return a.port === b.port && a.address === b.address;
}

/** One stable string for a flow, for maps and sets. */
export function flowKey({ protocol, local, remote }: Flow): string {
  return `${protocol} ${endpointText(local)} ${endpointText(remote)}`;
}

/** One stable string for an endpoint: TCP and UDP may have the same one. */
export function endpointKey(protocol: Protocol, endpoint: Endpoint): string {
  return `${protocol} ${endpointText(endpoint)}`;
}

/** The same flow as its other end sees it. */
export function reversed({ protocol, local, remote }: Flow): Flow {
  return { protocol, local: remote, remote: local };
}

export function isLoopback(address: string): boolean {
  return address === '::1' || address.startsWith('127.');
}

/** fe80::/10, 169.254.0.0/16: such an address means something on one link only. */
export function isLinkLocal(address: string): boolean {
  return /^fe[89ab]/i.test(address) || address.startsWith('169.254.');
}
