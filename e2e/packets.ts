/** Ethernet frames with all checksums computed from scratch, to put into the datapath and to expect out of it. */
import { addressBytes, type Endpoint, type Protocol } from '../agent/address.ts';

const ETHERTYPE = { ipv4: 0x0800, ipv6: 0x86dd, arp: 0x0806 } as const;
const PROTOCOL_NUMBERS = { tcp: 6, udp: 17, icmp: 1, icmp6: 58 } as const;
const DESTINATION_OPTIONS = 60;
const IPV6_FRAGMENT = 44;
const HOPS = 64;
/** In units of 8 bytes, with the flag "more fragments". */
const IPV4_MORE = 0x2000;
const IPV4_DONT = 0x4000;
const IPV6_MORE = 1;
export const FIN = 0x01;
export const SYN = 0x02;
export const RST = 0x04;
export const ACK = 0x10;

export type Packet = {
  readonly protocol: Protocol;
  readonly from: Endpoint;
  readonly to: Endpoint;
  readonly flags?: number;
  readonly payload?: string;
  /** TCP: sequence and acknowledgement number, window; 0x01020304, 0 and 65,535 without them. */
  readonly seq?: number;
  readonly ack?: number;
  readonly window?: number;
  /** Of IPv4; 0x1234 without it. */
  readonly identification?: number;
  /** UDP over IPv4 without a checksum. */
  readonly noChecksum?: boolean;
  /** Four bytes of IPv4 options, or one IPv6 destination options header. */
  readonly options?: boolean;
  /** Time to live, or hop limit; 64 without it. */
  readonly hops?: number;
  /** A fragment; `offset` in bytes. */
  readonly fragment?: { readonly offset: number; readonly more: boolean };
};

/** An ICMP message about a packet: its own addresses, and the frame that it quotes. */
export type ErrorMessage = {
  readonly from: string;
  readonly to: string;
  readonly about: Buffer;
  /** So much of the packet is quoted, in bytes. */
  readonly quoted: number;
  readonly hops?: number;
};

const ETHERNET_BYTES = 14;
/** Destination unreachable, fragmentation needed; packet too big: both say an MTU of 1300. */
const TOO_BIG = { ipv4: '0304000000000514', ipv6: '0200000000000514' } as const;

/** The destination MAC address is that of the loopback device, on which `bpftool prog run` lets frames arrive. */
export function frame(packet: Packet): Buffer {
  const ipv6 = packet.from.address.includes(':');
  const transport = transportOf(packet);
  const network = ipv6 ? ipv6Header(packet, transport.length) : ipv4Header(packet, transport.length);
  return Buffer.concat([ethernet(ipv6 ? ETHERTYPE.ipv6 : ETHERTYPE.ipv4), network, transport]);
}

/** The packet in two fragments, of which the first has `bytes` (a multiple of 8) of it. */
export function fragments(packet: Packet, bytes: number): [Buffer, Buffer] {
  const transport = transportOf(packet);
  const piece = (offset: number, end: number, more: boolean) => {
    const part = transport.subarray(offset, end);
    const header = { ...packet, fragment: { offset, more } };
    const ipv6 = packet.from.address.includes(':');
    const network = ipv6 ? ipv6Header(header, part.length) : ipv4Header(header, part.length);
    return Buffer.concat([ethernet(ipv6 ? ETHERTYPE.ipv6 : ETHERTYPE.ipv4), network, part]);
  };
  return [piece(0, bytes, true), piece(bytes, transport.length, false)];
}

/** "Fragmentation needed", "packet too big". */
export function errorFrame({ from, to, about, quoted, hops = HOPS }: ErrorMessage): Buffer {
  const family = from.includes(':') ? 'ipv6' : 'ipv4';
  const quote = about.subarray(ETHERNET_BYTES, ETHERNET_BYTES + quoted);
  const body = Buffer.concat([Buffer.from(TOO_BIG[family], 'hex'), quote]);
  const covered =
    family === 'ipv4' ? [body] : [pseudoHeader(from, to, PROTOCOL_NUMBERS.icmp6, body.length), body];
  body.writeUInt16BE(checksum(Buffer.concat(covered)), 2);
  return icmpFrameOf(from, to, body, hops);
}

/** The frame with a VLAN tag, or one more. */
export function tagged(untagged: Buffer): Buffer {
  const tag = Buffer.from('81000005', 'hex');
  return Buffer.concat([untagged.subarray(0, 12), tag, untagged.subarray(12)]);
}

export function arpFrame(): Buffer {
  return Buffer.concat([ethernet(ETHERTYPE.arp), Buffer.alloc(46)]);
}

/** ICMP echo request, or router solicitation over IPv6. */
export function icmpFrame(from: string, to: string): Buffer {
  const [v4, v6] = ['08000000000000000000000000000000', '85000000000000000000000000000000'];
  return icmpFrameOf(from, to, Buffer.from(from.includes(':') ? v6 : v4, 'hex'));
}

function icmpFrameOf(from: string, to: string, body: Buffer, hops = HOPS): Buffer {
  const ends = { from: { address: from, port: 0 }, to: { address: to, port: 0 } };
  const packet = { ...ends, hops, protocol: from.includes(':') ? 'icmp6' : 'icmp' } as const;
  const ipv6 = packet.protocol === 'icmp6';
  const network = ipv6 ? ipv6Header(packet, body.length) : ipv4Header(packet, body.length);
  return Buffer.concat([ethernet(ipv6 ? ETHERTYPE.ipv6 : ETHERTYPE.ipv4), network, body]);
}

function ethernet(type: number): Buffer {
  const header = Buffer.alloc(14);
  header.set([2, 0, 0, 0, 0, 1], 6);
  header.writeUInt16BE(type, 12);
  return header;
}

type NetworkHeader = Omit<Packet, 'protocol'> & { readonly protocol: keyof typeof PROTOCOL_NUMBERS };

function ipv4Header(
  { from, to, protocol, hops = HOPS, options = false, fragment, identification = 0x1234 }: NetworkHeader,
  length: number,
): Buffer {
  const header = Buffer.alloc(options ? 24 : 20, 1);
  header.writeUInt8(0x40 + header.length / 4, 0);
  header.writeUInt8(0, 1);
  header.writeUInt16BE(header.length + length, 2);
  header.writeUInt16BE(identification, 4);
  header.writeUInt16BE(fragment ? fragment.offset / 8 + (fragment.more ? IPV4_MORE : 0) : IPV4_DONT, 6);
  header.writeUInt8(hops, 8);
  header.writeUInt8(PROTOCOL_NUMBERS[protocol], 9);
  header.writeUInt16BE(0, 10);
  header.set(addressBytes(from.address).subarray(12), 12);
  header.set(addressBytes(to.address).subarray(12), 16);
  header.writeUInt16BE(checksum(header), 10);
  return header;
}

function ipv6Header(
  { from, to, protocol, hops = HOPS, options = false, fragment }: NetworkHeader,
  length: number,
): Buffer {
  const header = Buffer.alloc(40);
  const extension = Buffer.alloc(options || fragment !== undefined ? 8 : 0);
  const next = options ? DESTINATION_OPTIONS : IPV6_FRAGMENT;
  if (extension.length > 0) extension.writeUInt8(PROTOCOL_NUMBERS[protocol], 0);
  // PadN over the rest of the options; the offset and "more fragments" in a fragment header.
  if (options) extension.set([1, 4], 2);
  if (fragment) {
    extension.writeUInt16BE(fragment.offset + (fragment.more ? IPV6_MORE : 0), 2);
    extension.writeUInt32BE(0x1234, 4);
  }
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
  const { seq = 0x01020304, ack = 0, window = 0xffff } = packet;
  const header = Buffer.alloc(protocol === 'tcp' ? 20 : 8);
  header.writeUInt16BE(from.port, 0);
  header.writeUInt16BE(to.port, 2);
  if (protocol === 'tcp') {
    header.writeUInt32BE(seq, 4);
    header.writeUInt32BE(ack, 8);
    header.writeUInt8(0x50, 12);
    header.writeUInt8(flags, 13);
    header.writeUInt16BE(window, 14);
  } else {
    header.writeUInt16BE(header.length + payload.length, 4);
  }
  const segment = Buffer.concat([header, Buffer.from(payload)]);
  if (packet.noChecksum !== true) {
    segment.writeUInt16BE(
      checksum(
        Buffer.concat([
          pseudoHeader(from.address, to.address, PROTOCOL_NUMBERS[protocol], segment.length),
          segment,
        ]),
      ),
      protocol === 'tcp' ? 16 : 6,
    );
  }
  return segment;
}

function pseudoHeader(from: string, to: string, protocol: number, length: number): Buffer {
  const rest = Buffer.alloc(8);
  rest.writeUInt32BE(length, 0);
  rest.writeUInt8(protocol, 7);
  const own = from.includes(':') ? 0 : 12;
  return Buffer.concat([addressBytes(from).subarray(own), addressBytes(to).subarray(own), rest]);
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
