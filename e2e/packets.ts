/** Ethernet frames with all checksums computed from scratch, to put into the datapath and to expect out of it. */
import { addressBytes, type Endpoint, type Protocol } from '../agent/address.ts';

const ETHERTYPE = { ipv4: 0x0800, ipv6: 0x86dd, arp: 0x0806 } as const;
const PROTOCOL_NUMBERS = { tcp: 6, udp: 17 } as const;
const DESTINATION_OPTIONS = 60;
const IPV6_FRAGMENT = 44;
const HOPS = 64;
export const SYN = 0x02;
export const RST = 0x04;
export const ACK = 0x10;

export type Packet = {
  readonly protocol: Protocol;
  readonly from: Endpoint;
  readonly to: Endpoint;
  readonly flags?: number;
  readonly payload?: string;
  /** UDP over IPv4 without a checksum. */
  readonly noChecksum?: boolean;
  /** Four bytes of IPv4 options, or one IPv6 destination options header. */
  readonly options?: boolean;
  /** Time to live, or hop limit; 64 without it. */
  readonly hops?: number;
  /** A first fragment. */
  readonly fragment?: boolean;
};

/** The destination MAC address is that of the loopback device, on which `bpftool prog run` lets frames arrive. */
export function frame(packet: Packet): Buffer {
  const ipv6 = packet.from.address.includes(':');
  const transport = transportOf(packet);
  const network = ipv6 ? ipv6Header(packet, transport.length) : ipv4Header(packet, transport.length);
  return Buffer.concat([ethernet(ipv6 ? ETHERTYPE.ipv6 : ETHERTYPE.ipv4), network, transport]);
}

export function arpFrame(): Buffer {
  return Buffer.concat([ethernet(ETHERTYPE.arp), Buffer.alloc(46)]);
}

/** ICMP echo request, or router solicitation over IPv6. */
export function icmpFrame(from: string, to: string): Buffer {
  const ipv6 = from.includes(':');
  const packet: Packet = { protocol: 'udp', from: { address: from, port: 0 }, to: { address: to, port: 0 } };
  const body = Buffer.from(
    ipv6 ? '85000000000000000000000000000000' : '08000000000000000000000000000000',
    'hex',
  );
  const network = ipv6 ? ipv6Header(packet, body.length) : ipv4Header(packet, body.length);
  network[ipv6 ? 6 : 9] = ipv6 ? 58 : 1;
  return Buffer.concat([ethernet(ipv6 ? ETHERTYPE.ipv6 : ETHERTYPE.ipv4), network, body]);
}

function ethernet(type: number): Buffer {
  const header = Buffer.alloc(14);
  header.set([2, 0, 0, 0, 0, 1], 6);
  header.writeUInt16BE(type, 12);
  return header;
}

function ipv4Header(
  { from, to, protocol, hops = HOPS, options = false, fragment = false }: Packet,
  length: number,
): Buffer {
  const header = Buffer.alloc(options ? 24 : 20, 1);
  header.writeUInt8(0x40 + header.length / 4, 0);
  header.writeUInt8(0, 1);
  header.writeUInt16BE(header.length + length, 2);
  header.writeUInt16BE(0x1234, 4);
  header.writeUInt16BE(fragment ? 0x2000 : 0x4000, 6);
  header.writeUInt8(hops, 8);
  header.writeUInt8(PROTOCOL_NUMBERS[protocol], 9);
  header.writeUInt16BE(0, 10);
  header.set(addressBytes(from.address).subarray(12), 12);
  header.set(addressBytes(to.address).subarray(12), 16);
  header.writeUInt16BE(checksum(header), 10);
  return header;
}

function ipv6Header(
  { from, to, protocol, hops = HOPS, options = false, fragment = false }: Packet,
  length: number,
): Buffer {
  const header = Buffer.alloc(40);
  const extension = Buffer.alloc(options || fragment ? 8 : 0);
  const next = options ? DESTINATION_OPTIONS : IPV6_FRAGMENT;
  if (extension.length > 0) extension.writeUInt8(PROTOCOL_NUMBERS[protocol], 0);
  // PadN over the rest of the options; the offset and "more fragments" in a fragment header.
  if (options) extension.set([1, 4], 2);
  if (fragment) extension.writeUInt16BE(1, 2);
  header.writeUInt8(0x60, 0);
  header.writeUInt16BE(extension.length + length, 4);
  header.writeUInt8(extension.length > 0 ? next : PROTOCOL_NUMBERS[protocol], 6);
  header.writeUInt8(hops, 7);
  header.set(addressBytes(from.address), 8);
  header.set(addressBytes(to.address), 24);
  return Buffer.concat([header, extension]);
}

function transportOf(packet: Packet): Buffer {
  const { protocol, from, to, flags = ACK, payload = 'osmosis' } = packet;
  const header = Buffer.alloc(protocol === 'tcp' ? 20 : 8);
  header.writeUInt16BE(from.port, 0);
  header.writeUInt16BE(to.port, 2);
  if (protocol === 'tcp') {
    header.writeUInt32BE(0x01020304, 4);
    header.writeUInt8(0x50, 12);
    header.writeUInt8(flags, 13);
    header.writeUInt16BE(0xffff, 14);
  } else {
    header.writeUInt16BE(header.length + payload.length, 4);
  }
  const segment = Buffer.concat([header, Buffer.from(payload)]);
  if (packet.noChecksum !== true) {
    segment.writeUInt16BE(
      checksum(Buffer.concat([pseudoHeader(packet, segment.length), segment])),
      protocol === 'tcp' ? 16 : 6,
    );
  }
  return segment;
}

function pseudoHeader({ from, to, protocol }: Packet, length: number): Buffer {
  const rest = Buffer.alloc(8);
  rest.writeUInt32BE(length, 0);
  rest.writeUInt8(PROTOCOL_NUMBERS[protocol], 7);
  const own = from.address.includes(':') ? 0 : 12;
  return Buffer.concat([
    addressBytes(from.address).subarray(own),
    addressBytes(to.address).subarray(own),
    rest,
  ]);
}

/** RFC 1071. */
function checksum(bytes: Buffer): number {
  let sum = 0;
  for (let offset = 0; offset < bytes.length; offset += 2) {
    sum += ((bytes[offset] ?? 0) << 8) | (bytes[offset + 1] ?? 0);
  }
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return ~sum & 0xffff;
}
