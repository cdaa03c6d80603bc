/** What every H2O datagram begins with, and the names and bounds that all of H2O shares. Specification: docs/h2o.md. */
import assert from 'node:assert/strict';
import type { Endpoint, Protocol } from '../address.ts';
import { type ByteReader, concatBytes, u8 } from './bytes.ts';

export const H2O_PORT = 18018;
/** Fits the minimum IPv6 MTU of 1,280 bytes with its headers, so that a datagram is never fragmented. */
export const DATAGRAM_BYTES_MAX = 1200;
export const ID_BYTES = 16;
export const KEY_BYTES = 32;
/** Ed25519: public key and signature; and SHA-256 of the former, as SSH has it. */
export const IDENTITY_BYTES = 32;
export const SIGNATURE_BYTES = 64;
export const FINGERPRINT_BYTES = 32;
export const TRANSACTION_BYTES = 8;
/** What only whoever reads what is sent to an address can show. */
export const RECEIPT_BYTES = 16;
export const TAG_BYTES = 8;
export const QUERY_NONCE_BYTES = 8;

const MAGIC = Uint8Array.of(0x48, 0x32, 0x4f);
const VERSION = 1;
export const TYPE_AT = MAGIC.length + 1;
/** Where a sealed message says how many agents have passed it on. */
export const HOPS_AT = TYPE_AT + 1 + 1;
/** The end of a connection was at so many hosts one after the other while its message was on its way. */
export const HOPS_MAX = 8;
export const HEADER_BYTES = HOPS_AT + 1 + 1 + ID_BYTES;
/** The header, the session tag and the epoch: what is in clear, and authenticated, in a sealed message. */
export const SEALED_HEADER_BYTES = HEADER_BYTES + TAG_BYTES + 4;

export const MESSAGE_TYPES = {
  hello: 1,
  welcome: 2,
  move: 3,
  hold: 4,
  bye: 5,
  ack: 6,
  query: 7,
  verdict: 8,
  follow: 9,
  arm: 10,
} as const;
export type MessageType = keyof typeof MESSAGE_TYPES;

/** What the cell side seals and the peer side acknowledges. */
export const ACKNOWLEDGED = {
  move: MESSAGE_TYPES.move,
  hold: MESSAGE_TYPES.hold,
  bye: MESSAGE_TYPES.bye,
  follow: MESSAGE_TYPES.follow,
} as const;
export type Acknowledged = keyof typeof ACKNOWLEDGED;

/** Parts of one ARM: as many as its detail, and that of their ACKs, can number. */
export const ARM_PARTS_MAX = 128;
/** Detail of the ACK of an ARM: this and the number of the part. */
export const ARM_PART_ACKNOWLEDGED = 128;

/** `aborted`: the prepared move won't happen, the cell goes on where it is. `ended`: the cell exists no more. */
export const BYE_REASONS = { aborted: 1, ended: 2 } as const;
export type ByeReason = keyof typeof BYE_REASONS;

/**
 * What becomes of datagrams for a suspended cell: they wait at their sender's host, within bounds, or are dropped there.
 * `pause`: they wait from now on, but the cell is not suspended yet.
 */
export const UDP_POLICIES = { hold: 0, drop: 1, pause: 2 } as const;
export type UdpPolicy = Exclude<keyof typeof UDP_POLICIES, 'pause'>;

export const VERDICTS = { undecided: 1, commit: 2, abort: 3 } as const;
export type Verdict = keyof typeof VERDICTS;

/**
 * `untrusted`: the HELLO's sender is not whom the peer side knows at its address. `receipt`: it has yet to show that it
 * reads what is sent there.
 */
export const WELCOME_ANSWERS = { answered: 0, untrusted: 1, receipt: 2 } as const;

/** Why a datagram does nothing. The text is what `osmosis` shows beside the counter. */
export const DROP_REASONS = {
  'too-long': 'longer than a datagram of H2O can be',
  'too-short': 'ends before its fields do',
  'not-h2o': 'does not begin with the magic of H2O',
  version: 'a version of H2O that is not spoken here',
  type: 'an unknown message type',
  reserved: 'a reserved field is not zero',
  trailing: 'goes on after its last field',
  count: 'a count out of its bounds',
  value: 'a field with a value that it cannot have',
  session: 'belongs to another session or to keys that are no longer valid',
  'weak-key': 'a public key of small order',
  forged: 'its seal does not open',
  stale: 'an epoch that is not newer than the last one',
  unarmed: 'moves labels that were never armed here',
  unsigned: 'its signature is not of the identity that it shows',
  untrusted: 'announced by an agent that is not trusted any more',
} as const;
export type DropReason = keyof typeof DROP_REASONS;
export type Drop = { readonly drop: DropReason };

export function isDrop(value: object): value is Drop {
  return 'drop' in value;
}

export const PROTOCOL_NUMBERS = { tcp: 6, udp: 17 } as const satisfies Record<Protocol, number>;

/** The name that `table` gives to `code`. */
export function nameOf<Name extends string>(table: Record<Name, number>, code: number): Name | undefined {
  for (const name in table) if (table[name] === code) return name;
  return undefined;
}

/**
 * Header, 24 bytes:
 *
 *   3b: magic "H2O"
 *   1b: version (1)
 *   1b: type
 *   1b: detail (HELLO: 1 if its claims are to be kept; WELCOME: 1 if untrusted, 2 if a receipt; HOLD: what becomes of datagrams; ARM: part; ACK: type acknowledged, or 128 + part of an ARM; BYE: reason; VERDICT: verdict; else zero)
 *   1b: hops (MOVE, HOLD, BYE, FOLLOW, ARM, ACK: agents that have passed it on, HOPS_MAX at most; authenticated as zero); else zero
 *   1b: reserved, zero
 *  16b: cell id (QUERY, VERDICT: migration id)
 */
/** What a HELLO wants of its claims: forgotten in a minute unless they are armed, or kept for as long as their flows live. */
export const HELLO_KINDS = { once: 0, kept: 1 } as const;

/** Types whose detail says something. */
const DETAILS: Partial<Record<MessageType, Readonly<Record<string, number>>>> = {
  ack: ACKNOWLEDGED,
  hello: HELLO_KINDS,
  hold: UDP_POLICIES,
  bye: BYE_REASONS,
  verdict: VERDICTS,
  welcome: WELCOME_ANSWERS,
};

export type Header = {
  readonly type: MessageType;
  readonly detail: number;
  readonly hops: number;
  readonly id: Uint8Array;
};

/** As its sender makes it: nobody has passed it on. */
export function encodeHeader({ type, detail, id }: Omit<Header, 'hops'>): Uint8Array {
  assert.equal(id.length, ID_BYTES);
  return concatBytes(MAGIC, u8(VERSION), u8(MESSAGE_TYPES[type]), u8(detail), u8(0), u8(0), id);
}

function isPassedOn(type: MessageType): boolean {
  return type === 'ack' || type === 'arm' || Object.hasOwn(ACKNOWLEDGED, type);
}

export function decodeHeader(reader: ByteReader): Header | Drop {
  const magic = reader.take(MAGIC.length);
  const [version, code, detail] = [reader.u8(), reader.u8(), reader.u8()];
  const [hops, reserved] = [reader.u8(), reader.u8()];
  const id = reader.take(ID_BYTES);
  if (reader.overrun()) return { drop: 'too-short' };
  if (!magic.every((byte, index) => byte === MAGIC[index])) return { drop: 'not-h2o' };
  if (version !== VERSION) return { drop: 'version' };
  const type = nameOf(MESSAGE_TYPES, code);
  if (type === undefined) return { drop: 'type' };
  if (reserved !== 0 || (hops > 0 && !isPassedOn(type))) return { drop: 'reserved' };
  if (hops > HOPS_MAX) return { drop: 'count' };
  const details = DETAILS[type];
  const header = { type, detail, hops, id };
  if (isPart(type, detail)) return header;
  if (type === 'arm') return { drop: 'value' };
  if (details === undefined) return detail === 0 ? header : { drop: 'reserved' };
  return nameOf(details, detail) === undefined ? { drop: 'value' } : header;
}

/** Whether the detail numbers a part of an ARM. */
function isPart(type: MessageType, detail: number): boolean {
  if (type === 'ack') return detail >= ARM_PART_ACKNOWLEDGED;
  return type === 'arm' && detail < ARM_PARTS_MAX;
}

/** Both of IPv4 or both of IPv6: addresses are rewritten in place, which can't turn one family into the other. */
export function sameFamily(a: string, b: string): boolean {
  return a.includes(':') === b.includes(':');
}

/** A label: the wire endpoint under which a cell's virtual endpoint appears after the move. */
export type Label = { readonly protocol: Protocol; readonly virtual: Endpoint; readonly wire: Endpoint };
