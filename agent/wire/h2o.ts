/**
 * H2O, the handoff between agents, as bytes: no I/O, no keys. What is sealed is opened in h2o-session.ts.
 *
 * Protocol flow:
 *
 *    cell side                                              peer side
 *    source       HELLO part 1                          →   keeps nothing
 *                                                       ←   WELCOME part 1 (receipt, for the address that it is sent to)
 *                 HELLO part 1..n (receipt, key, claims) →  has those flows? arms their labels
 *                                                       ←   WELCOME part 1..n (public key, which exist)
 *                 freeze; both can now compute the session; the source gives it to the destination
 *                                         commit
 *    destination  MOVE (labels, next public key)        →   flips
 *                                                       ←   ACK (next public key)
 *                 the two next public keys are the next session's
 *
 *    resumed to   ARM part 1..n (labels)                →   arms them: no HELLO could
 *                                                       ←   ACK for each
 *
 *    source       HOLD (suspension), BYE (aborted, ended) →
 *                                                       ←   ACK
 *
 *    cell's host  FOLLOW (new flows to its old endpoints, a lease) →
 *                                                       ←   ACK
 *
 *    destination  QUERY                                 →   source (not a peer: the two agents of one migration)
 *                                                       ←   VERDICT
 *
 * HELLO and WELCOME are signed by the agents' identities (h2o-identity.ts), everything that follows is sealed.
 * Whoever is not answered sends the identical datagram again. No answer is longer than what it answers.
 * Integers are big-endian; an address is 16 bytes, IPv4 as ::ffff:a.b.c.d.
 */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { OsmosisError } from '../error.ts';
import { type ByteReader, byteReader, concatBytes, equalBytes, u8, u16, u32 } from './bytes.ts';
import {
  armedLabels,
  type Claim,
  claimedFlows,
  decodeClaims,
  encodeClaims,
  groupCount,
  packClaims,
} from './h2o-claims.ts';
import { assertMovable } from './h2o-labels.ts';
import {
  type Acknowledged,
  DATAGRAM_BYTES_MAX,
  type Drop,
  decodeHeader,
  encodeHeader,
  HEADER_BYTES,
  HELLO_KINDS,
  type Header,
  HOPS_AT,
  HOPS_MAX,
  ID_BYTES,
  IDENTITY_BYTES,
  isDrop,
  KEY_BYTES,
  QUERY_NONCE_BYTES,
  RECEIPT_BYTES,
  SIGNATURE_BYTES,
  TAG_BYTES,
  TRANSACTION_BYTES,
  WELCOME_ANSWERS,
} from './h2o-layout.ts';
import { SEAL_BYTES } from './seal.ts';

/** Enough for 10,000 outgoing connections to one peer (84 parts); bounds what a peer keeps of one transaction. */
export const HELLO_PARTS_MAX = 128;
/** Transaction, epoch, public key, identity, signature, part, parts, receipt, and the two bytes of the counts. */
const HELLO_PREFIX_BYTES =
  HEADER_BYTES + TRANSACTION_BYTES + 4 + KEY_BYTES + IDENTITY_BYTES + SIGNATURE_BYTES + 2 + RECEIPT_BYTES + 2;
export const CLAIM_BYTES_PER_PART_MAX = DATAGRAM_BYTES_MAX - HELLO_PREFIX_BYTES;

/** The cell side's offer: who it is and which flows it holds with this peer. In clear; its signature is not checked yet. */
export type Hello = {
  readonly type: 'hello';
  readonly cell: Uint8Array;
  /** 8 random bytes, the same in all parts and in their answers. */
  readonly transaction: Uint8Array;
  /** Of the last MOVE of this cell that this peer acknowledged; 0 before the first. */
  readonly epoch: number;
  /** X25519. At an epoch above 0: the very key that the last MOVE announced. */
  readonly publicKey: Uint8Array;
  /** Ed25519 public key of the agent that sends it, and its signature: h2o-identity.ts. */
  readonly identity: Uint8Array;
  readonly signature: Uint8Array;
  /** 0 to parts - 1. */
  readonly part: number;
  readonly parts: number;
  /** 16 bytes that the peer side has sent to this HELLO's source for this pair; all zeros where it has sent none. */
  readonly receipt: Uint8Array;
  /** Its claims are to be kept: the cell may move one day without a word before. */
  readonly keeps?: true;
  readonly claims: readonly Claim[];
};

export type Welcome = {
  readonly type: 'welcome';
  readonly cell: Uint8Array;
  readonly transaction: Uint8Array;
  readonly epoch: number;
  /** X25519; all zeros if no flow of the part is claimable and nothing was kept of it: then nothing is signed. */
  readonly publicKey: Uint8Array;
  /** Of the agent that answers; all zeros where nothing is signed. */
  readonly identity: Uint8Array;
  readonly signature: Uint8Array;
  /**
   * Nothing may be claimed because of who asks: the fingerprint that the peer side knows the asker's address by, zeros if
   * it knows none.
   */
  readonly untrusted?: { readonly known: Uint8Array };
  /** Nothing was looked at: the HELLO has to show this, 16 bytes, not zeros. Not signed. */
  readonly receipt?: Uint8Array;
  readonly part: number;
  readonly parts: number;
  /** For each flow of the HELLO part, in order: it exists here, and this cell may claim it. */
  readonly claimable: readonly boolean[];
};

/** A sealed message before it is opened: only `type`, `cell`, `tag` and `epoch` are legible, and none is to be believed yet. */
export type Sealed = {
  readonly type: Acknowledged | 'arm' | 'ack';
  readonly cell: Uint8Array;
  /** Which session it is sealed under: what is for another one costs no public-key operation. */
  readonly tag: Uint8Array;
  readonly epoch: number;
  readonly detail: number;
  /** How many agents have passed it on. */
  readonly hops: number;
  /** As its sender made it. */
  readonly datagram: Uint8Array;
};

/** A message between the two agents of one migration, before it is opened. */
export type SealedVerdict = {
  readonly type: 'query' | 'verdict';
  readonly migration: Uint8Array;
  readonly nonce: Uint8Array;
  readonly detail: number;
  readonly datagram: Uint8Array;
};

export type Message = Hello | Welcome | Sealed | SealedVerdict;

/** Never throws, whatever the bytes. */
export function decode(datagram: Uint8Array): { readonly message: Message } | Drop {
  if (datagram.length > DATAGRAM_BYTES_MAX) return { drop: 'too-long' };
  const reader = byteReader(datagram);
  const header = decodeHeader(reader);
  if (isDrop(header)) return header;
  const message = decodeBody(header, reader, datagram);
  return isDrop(message) ? message : { message };
}

function decodeBody(header: Header, reader: ByteReader, datagram: Uint8Array): Message | Drop {
  switch (header.type) {
    case 'hello':
      return decodeHello(header, reader);
    case 'welcome':
      return decodeWelcome(header, reader);
    case 'move':
    case 'hold':
    case 'bye':
    case 'follow':
    case 'arm':
    case 'ack':
      return decodeSealed({ ...header, type: header.type }, reader, datagram);
    case 'query':
    case 'verdict':
      return decodeSealedVerdict({ ...header, type: header.type }, reader, datagram);
  }
}

/**
 * HELLO, after the header:
 *
 *    8b: transaction
 *    4b: epoch
 *   32b: X25519 public key
 *   32b: identity, Ed25519 public key
 *   64b: signature
 *    1b: part, from 0
 *    1b: parts
 *   16b: receipt, or zeros
 *    1b: number of claim groups, at least 1
 *    1b: reserved, zero
 *        claim groups (h2o-claims.ts)
 */
export function encodeHello(hello: Hello): Uint8Array {
  assert.equal(hello.receipt.length, RECEIPT_BYTES);
  const datagram = concatBytes(
    encodeHeader({ type: 'hello', detail: HELLO_KINDS[hello.keeps ? 'kept' : 'once'], id: hello.cell }),
    encodePart(hello),
    hello.receipt,
    u8(groupCount(hello.claims)),
    u8(0),
    encodeClaims(hello.claims),
  );
  assert(datagram.length <= DATAGRAM_BYTES_MAX, 'a HELLO part is made by splitHello');
  return datagram;
}

function decodeHello({ id, detail }: Header, reader: ByteReader): Hello | Drop {
  const prefix = decodePart(reader);
  const receipt = reader.take(RECEIPT_BYTES);
  const [groups, reserved] = [reader.u8(), reader.u8()];
  if (reader.overrun()) return { drop: 'too-short' };
  if (isDrop(prefix)) return prefix;
  if (reserved !== 0) return { drop: 'reserved' };
  if (groups === 0) return { drop: 'count' };
  const claims = decodeClaims(reader, groups);
  if ('drop' in claims) return claims;
  if (reader.remaining() > 0) return { drop: 'trailing' };
  const hello = { type: 'hello', cell: id, ...prefix, receipt, claims } as const;
  return detail === HELLO_KINDS.kept ? { ...hello, keeps: true } : hello;
}

/**
 * WELCOME, after the header; transaction, epoch, part and parts as in the HELLO part that it answers:
 *
 *    8b: transaction
 *    4b: epoch
 *   32b: X25519 public key of the peer side, or zeros; if untrusted: the fingerprint that it knows, or zeros; a receipt: 16b
 *        of it, 16b zero
 *   32b: identity, Ed25519 public key, or zeros
 *   64b: signature, or zeros
 *    1b: part
 *    1b: parts
 *    2b: number of flows, at least 1
 *        one bit for each, from the highest bit of the first byte; unused bits zero
 */
export function encodeWelcome(welcome: Welcome): Uint8Array {
  const { untrusted, receipt } = welcome;
  const bitmap = new Uint8Array(Math.ceil(welcome.claimable.length / 8));
  welcome.claimable.forEach((claimable, index) => {
    if (claimable) bitmap[index >> 3] = (bitmap[index >> 3] ?? 0) | (0x80 >> (index & 7));
  });
  const answer = untrusted ? 'untrusted' : receipt ? 'receipt' : 'answered';
  const shown = receipt && concatBytes(receipt, new Uint8Array(KEY_BYTES - RECEIPT_BYTES));
  return concatBytes(
    encodeHeader({ type: 'welcome', detail: WELCOME_ANSWERS[answer], id: welcome.cell }),
    encodePart({ ...welcome, publicKey: untrusted?.known ?? shown ?? welcome.publicKey }),
    u16(welcome.claimable.length),
    bitmap,
  );
}

function decodeWelcome({ id, detail }: Header, reader: ByteReader): Welcome | Drop {
  const prefix = decodePart(reader);
  const count = reader.u16();
  if (reader.overrun()) return { drop: 'too-short' };
  if (isDrop(prefix)) return prefix;
  if (count === 0) return { drop: 'count' };
  const bitmap = reader.take(Math.ceil(count / 8));
  if (reader.overrun()) return { drop: 'too-short' };
  if (reader.remaining() > 0) return { drop: 'trailing' };
  const isSet = (index: number) => ((bitmap[index >> 3] ?? 0) & (0x80 >> (index & 7))) !== 0;
  const bits = Array.from({ length: bitmap.length * 8 }, (_, index) => isSet(index));
  if (bits.slice(count).includes(true)) return { drop: 'reserved' };
  const claimable = bits.slice(0, count);
  const answered = { type: 'welcome' as const, cell: id, ...prefix, claimable };
  if (detail === WELCOME_ANSWERS.answered) {
    const unsigned = isZero(prefix.publicKey);
    const isSound = !unsigned || (isZero(prefix.identity) && isZero(prefix.signature) && isZero(bitmap));
    return isSound ? answered : { drop: 'value' };
  }
  const { publicKey: said } = prefix;
  if (!isZero(bitmap)) return { drop: 'value' };
  const unkeyed = { ...answered, publicKey: new Uint8Array(KEY_BYTES) };
  if (detail === WELCOME_ANSWERS.untrusted) return { ...unkeyed, untrusted: { known: said } };
  const receipt = said.slice(0, RECEIPT_BYTES);
  const isPlain = isZero(said.slice(RECEIPT_BYTES)) && isZero(prefix.identity) && isZero(prefix.signature);
  return isPlain && !isZero(receipt) ? { ...unkeyed, receipt } : { drop: 'value' };
}

function isZero(bytes: Uint8Array): boolean {
  return bytes.every((byte) => byte === 0);
}

type Part = Pick<Hello, 'transaction' | 'epoch' | 'publicKey' | 'identity' | 'signature' | 'part' | 'parts'>;

function encodePart({ transaction, epoch, publicKey, identity, signature, part, parts }: Part): Uint8Array {
  assert.equal(transaction.length, TRANSACTION_BYTES);
  assert.equal(publicKey.length, KEY_BYTES);
  assert.equal(identity.length, IDENTITY_BYTES);
  assert.equal(signature.length, SIGNATURE_BYTES);
  return concatBytes(transaction, u32(epoch), publicKey, identity, signature, u8(part), u8(parts));
}

function decodePart(reader: ByteReader): Part | Drop {
  const transaction = reader.take(TRANSACTION_BYTES);
  const epoch = reader.u32();
  const publicKey = reader.take(KEY_BYTES);
  const identity = reader.take(IDENTITY_BYTES);
  const signature = reader.take(SIGNATURE_BYTES);
  const [part, parts] = [reader.u8(), reader.u8()];
  if (reader.overrun()) return { drop: 'too-short' };
  if (parts > HELLO_PARTS_MAX || part >= parts) return { drop: 'count' };
  return { transaction, epoch, publicKey, identity, signature, part, parts };
}

/**
 * Sealed, after the header (MOVE, HOLD, BYE, FOLLOW, ARM, ACK):
 *
 *    8b: session tag
 *    4b: epoch
 *        ciphertext (MOVE, FOLLOW, ARM: labels; ACK of a MOVE: 32b; else empty)
 *   16b: authentication tag
 */
function decodeSealed(
  { type, detail, hops, id }: Header & Pick<Sealed, 'type'>,
  reader: ByteReader,
  datagram: Uint8Array,
): Sealed | Drop {
  const tag = reader.take(TAG_BYTES);
  const epoch = reader.u32();
  if (reader.overrun() || reader.remaining() < SEAL_BYTES) return { drop: 'too-short' };
  if (epoch === 0) return { drop: 'value' };
  return { type, cell: id, tag, epoch, detail, hops, datagram: withHops(datagram, 0) };
}

/** To be passed on: one hop more, and nothing else is changed. */
export function passedOn({ datagram, hops }: Sealed): Uint8Array {
  assert(hops < HOPS_MAX);
  return withHops(datagram, hops + 1);
}

function withHops(datagram: Uint8Array, hops: number): Uint8Array {
  const copy = datagram.slice();
  copy[HOPS_AT] = hops;
  return copy;
}

/**
 * Between the agents of one migration, after the header (QUERY, VERDICT):
 *
 *    8b: nonce, random in a QUERY and echoed by its VERDICT
 *   16b: authentication tag
 */
function decodeSealedVerdict(
  { type, detail, id }: Header & Pick<SealedVerdict, 'type'>,
  reader: ByteReader,
  datagram: Uint8Array,
): SealedVerdict | Drop {
  const nonce = reader.take(QUERY_NONCE_BYTES);
  reader.take(SEAL_BYTES);
  if (reader.overrun()) return { drop: 'too-short' };
  if (reader.remaining() > 0) return { drop: 'trailing' };
  return { type, migration: id, nonce, detail, datagram: datagram.slice() };
}

export function newCellId(): Uint8Array {
  return new Uint8Array(randomBytes(ID_BYTES));
}

export function newTransaction(): Uint8Array {
  return new Uint8Array(randomBytes(TRANSACTION_BYTES));
}

/**
 * The parts of one HELLO, each a Hello of its own that encodes to one datagram. Claims may come out regrouped and cut.
 * Throws PREFLIGHT if the claims don't fit HELLO_PARTS_MAX parts, or their labels one MOVE.
 */
export function splitHello(hello: Omit<Hello, 'type' | 'part' | 'parts'>): Hello[] {
  assertMovable(armedLabels(hello.claims));
  const packed = packClaims(hello.claims, CLAIM_BYTES_PER_PART_MAX);
  if (packed.length > HELLO_PARTS_MAX) {
    throw new OsmosisError(
      'PREFLIGHT',
      `The cell has too many connections with one peer: claiming them takes ${packed.length} datagrams, the limit is ` +
        `${HELLO_PARTS_MAX}. Nothing has been touched; move it when it has fewer.`,
    );
  }
  return packed.map((claims, part) => ({ ...hello, type: 'hello', part, parts: packed.length, claims }));
}

/** True if `welcome` answers exactly this part. */
export function answers(welcome: Welcome, hello: Hello): boolean {
  return (
    equalBytes(welcome.cell, hello.cell) &&
    equalBytes(welcome.transaction, hello.transaction) &&
    welcome.epoch === hello.epoch &&
    welcome.part === hello.part &&
    welcome.parts === hello.parts &&
    welcome.claimable.length === claimedFlows(hello.claims).length
  );
}
