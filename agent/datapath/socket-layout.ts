/**
 * What the socket iterators of osmosis.bpf.c (its section SOCKET_OPTIONS) read and write, byte for byte; pure. The sizes
 * are asserted there.
 */
import { addressBytes, addressText, type Endpoint } from '../address.ts';

const KEY_BYTES = 36;
const OPTIONS_BYTES = 48;
const NAME_BYTES = 16;
export const RECORD_BYTES = 128;
const OUTCOME_BYTES = KEY_BYTES + 4;

/** By the bit of `failed` that says that setting it failed; offset and size in struct socket_options. Bit 0: congestion. */
const FIELDS = [
  ['TCP_USER_TIMEOUT', 24, 4],
  ['TCP_NOTSENT_LOWAT', 28, 4],
  ['TCP_WINDOW_CLAMP', 32, 4],
  ['TCP_MAXSEG', 36, 2],
  ['TCP_SYNCNT', 38, 1],
  ['TCP_THIN_LINEAR_TIMEOUTS', 39, 1],
  ['TCP_SAVE_SYN', 40, 1],
  ['SO_MAX_PACING_RATE', 16, 8],
  ['IP_TOS', 41, 1],
  ['IPV6_TCLASS', 42, 1],
  /** 1: off. */
  ['SO_REUSEPORT', 43, 1],
  ['SO_TXREHASH', 44, 1],
] as const;

/** enum lost of the C file: options that nothing can put back. */
const LOST = [
  'TCP_DEFER_ACCEPT',
  'TCP_LINGER2',
  'TCP_FASTOPEN',
  'TCP_INQ',
  'TCP_TX_DELAY',
  'SO_TIMESTAMP',
  'SO_RXQ_OVFL',
  'SO_ZEROCOPY',
  'SO_TXTIME',
  'SO_BUSY_POLL',
  'SO_PEEK_OFF',
  'SO_LOCK_FILTER',
  'SO_ATTACH_REUSEPORT_EBPF',
  'multicast memberships',
  'IP_MTU_DISCOVER',
  'IP_RECVERR',
  'IP_RECVTOS, IP_RECVTTL and other ancillary data',
  'IP_TRANSPARENT',
  'IP_MINTTL or IPV6_UNICAST_HOPS',
  'IP_OPTIONS',
  'UDP_SEGMENT',
  'UDP_GRO',
] as const;

/** The bits of enum lost after those of LOST: what a socket can't be moved with. */
const REFUSED = ['TCP_MD5SIG', 'TCP_REPAIR', 'SO_ATTACH_BPF'] as const;
export type RefusedOption = (typeof REFUSED)[number];

/** Options that differ from those of a new socket, by their names; `congestion` is empty for what is not TCP. */
export type SocketOptions = {
  readonly congestion: string;
  readonly values: Readonly<Record<string, number>>;
};

export type SocketPair = { readonly local: Endpoint; readonly remote: Endpoint };

export type SocketRecord = SocketPair & {
  readonly inode: number;
  /** <linux/in.h>, <linux/socket.h>, include/net/tcp_states.h */
  readonly protocol: number;
  readonly type: number;
  readonly state: number;
  readonly options: SocketOptions;
  readonly lost: readonly string[];
  readonly refused: readonly RefusedOption[];
  /** Upper layer protocol: `tls` for kTLS. */
  readonly ulp: string;
  /** ifindex; 0 where it is bound to none. */
  readonly device: number;
};

/** Sockets that share one set of options. */
export type SocketGroup = { readonly options: SocketOptions; readonly sockets: SocketPair[] };

/** What TCP_USER_TIMEOUT of a socket was before `set_timeouts` has changed it. */
export type TimeoutChange = SocketPair & { readonly wasMs: number };

export type SocketOutcome = SocketPair & { readonly failed: readonly string[] };

export function parseRecords(bytes: Buffer): SocketRecord[] {
  return slices(bytes, RECORD_BYTES).map((record) => {
    const lost = record.readUInt32LE(44);
    return {
      inode: Number(record.readBigUInt64LE(0)),
      ...parseKey(record.subarray(8, 8 + KEY_BYTES)),
      type: record.readUInt16LE(50),
      protocol: record.readUInt16LE(52),
      state: record.readUInt8(54),
      options: parseOptions(record.subarray(56, 56 + OPTIONS_BYTES)),
      lost: LOST.filter((_, bit) => (lost >> bit) & 1),
      refused: REFUSED.filter((_, bit) => (lost >> (LOST.length + bit)) & 1),
      ulp: parseName(record.subarray(104, 104 + NAME_BYTES)),
      device: record.readUInt32LE(120),
    };
  });
}

export function parseOutcomes(bytes: Buffer): SocketOutcome[] {
  const names = ['TCP_CONGESTION', ...FIELDS.map(([name]) => name)];
  return slices(bytes, OUTCOME_BYTES).map((outcome) => {
    const failed = outcome.readUInt32LE(KEY_BYTES);
    return { ...parseKey(outcome), failed: names.filter((_, bit) => (failed >> bit) & 1) };
  });
}

/** struct timeout_change */
export function parseTimeoutChanges(bytes: Buffer): TimeoutChange[] {
  return slices(bytes, OUTCOME_BYTES).map((change) => ({
    ...parseKey(change),
    wasMs: change.readUInt32LE(KEY_BYTES),
  }));
}

/** struct socket_key: what the map `wanted` is looked up by. */
export function packKey({ local, remote }: SocketPair): Buffer {
  const key = Buffer.alloc(KEY_BYTES);
  key.set(addressBytes(local.address), 0);
  key.set(addressBytes(remote.address), 16);
  key.writeUInt16LE(local.port, 32);
  key.writeUInt16LE(remote.port, 34);
  return key;
}

/** struct socket_options; names that this version does not know are left out. */
export function packOptions({ congestion, values }: SocketOptions): Buffer {
  const options = Buffer.alloc(OPTIONS_BYTES);
  options.write(congestion.slice(0, NAME_BYTES - 1), 0, 'latin1');
  for (const [name, offset, size] of FIELDS) {
    const value = values[name] ?? 0;
    if (size === 8) options.writeBigUInt64LE(BigInt(value), offset);
    else options.writeUIntLE(value, offset, size);
  }
  return options;
}

function parseOptions(bytes: Buffer): SocketOptions {
  const values = FIELDS.map(([name, offset, size]) => [
    name,
    size === 8 ? Number(bytes.readBigUInt64LE(offset)) : bytes.readUIntLE(offset, size),
  ]);
  return {
    congestion: parseName(bytes.subarray(0, NAME_BYTES)),
    values: Object.fromEntries(values.filter(([, value]) => value !== 0)),
  };
}

function parseKey(key: Buffer): SocketPair {
  return {
    local: { address: addressText(key.subarray(0, 16)), port: key.readUInt16LE(32) },
    remote: { address: addressText(key.subarray(16, 32)), port: key.readUInt16LE(34) },
  };
}

function parseName(bytes: Buffer): string {
  return bytes.toString('latin1').replace(/\0.*$/s, '');
}

function slices(bytes: Buffer, length: number): Buffer[] {
  return Array.from({ length: Math.floor(bytes.length / length) }, (_, index) =>
    bytes.subarray(index * length, (index + 1) * length),
  );
}
