/**
 * The session between a cell and one peer: its keys, and what is sealed under them.
 *
 *   salt     = SHA-256("osmosis h2o 1" ‖ cell id ‖ epoch of the pair (4b) ‖ cell side's key ‖ peer side's key)
 *   tag      = first 8 bytes of salt
 *   to peer  = HKDF-SHA256(X25519 shared secret, salt, "cell to peer", 32)
 *   to cell  = HKDF-SHA256(X25519 shared secret, salt, "peer to cell", 32)
 *
 * Sealed with ChaCha20-Poly1305; additional data: the whole clear header, 36 bytes. Nonce, 12 bytes:
 *
 *   1b: type
 *   1b: detail (HOLD: what becomes of datagrams; ARM: part; ACK: type acknowledged, or 128 + part of an ARM; BYE: reason)
 *   6b: zero
 *   4b: epoch
 *
 * One key never seals two plaintexts under one nonce: BYE and its ACK have none (all they say is in the header), HOLD nothing but zeros;
 * the cell side gives every new message (a FOLLOW that says the same anew as well) a new epoch and keeps a MOVE's datagram, not its parts, to send it again; the
 * peer side keeps the ACK that it made. So both MUST be written down before they are first sent. The parts of an ARM share an
 * epoch, and differ in their detail.
 */
import assert from 'node:assert/strict';
import { createHash, hkdfSync } from 'node:crypto';
import { x25519 } from '@noble/curves/ed25519.js';
import { type ByteReader, byteReader, concatBytes, equalBytes, u8, u32 } from './bytes.ts';
import type { Sealed } from './h2o.ts';
import { type ArmBody, decodeArm, encodeArm } from './h2o-arm.ts';
import { decodeFollow, encodeFollow, type FollowBody } from './h2o-follow.ts';
import { decodeLabels, encodeLabels, type MoveLabels } from './h2o-labels.ts';
import {
  ACKNOWLEDGED,
  type Acknowledged,
  ARM_PART_ACKNOWLEDGED,
  BYE_REASONS,
  type ByeReason,
  DATAGRAM_BYTES_MAX,
  type Drop,
  encodeHeader,
  ID_BYTES,
  isDrop,
  KEY_BYTES,
  type Label,
  MESSAGE_TYPES,
  nameOf,
  SEALED_HEADER_BYTES,
  TAG_BYTES,
  TRANSACTION_BYTES,
  UDP_POLICIES,
  type UdpPolicy,
} from './h2o-layout.ts';
import { openBytes, SEAL_BYTES, sealBytes } from './seal.ts';

const DOMAIN = new TextEncoder().encode('osmosis h2o 1');

export type KeyPair = { readonly secretKey: Uint8Array; readonly publicKey: Uint8Array };
export type Role = 'cell' | 'peer';

/** What both sides know of each other; all of it has been on the wire in clear or sealed. */
export type Pair = {
  readonly cell: Uint8Array;
  /** Of the MOVE that announced these keys; 0 for keys from HELLO and WELCOME. */
  readonly epoch: number;
  readonly cellPublicKey: Uint8Array;
  readonly peerPublicKey: Uint8Array;
};

/** Plain data, so that the source agent can compute it and hand it to the destination agent over SSH. */
export type Session = {
  readonly cell: Uint8Array;
  readonly tag: Uint8Array;
  /** Keys of 32 bytes, one per direction. */
  readonly toPeer: Uint8Array;
  readonly toCell: Uint8Array;
};

let sharedSecrets = 0;

/** How many X25519 shared secrets this process has computed. */
export function sharedSecretCount(): number {
  return sharedSecrets;
}

export function generateKeyPair(): KeyPair {
  return x25519.keygen();
}

function sharedSecret(secretKey: Uint8Array, publicKey: Uint8Array): Uint8Array | undefined {
  assert.equal(secretKey.length, KEY_BYTES);
  assert.equal(publicKey.length, KEY_BYTES);
  sharedSecrets++;
  try {
    return x25519.getSharedSecret(secretKey, publicKey);
  } catch {
    // Lengths are right, so this is RFC 7748's check: a point of small order makes an all-zero secret.
    return undefined;
  }
}

function transcriptHash({ cell, epoch, cellPublicKey, peerPublicKey }: Pair): Uint8Array {
  assert.equal(cell.length, ID_BYTES);
  const transcript = concatBytes(DOMAIN, cell, u32(epoch), cellPublicKey, peerPublicKey);
  return new Uint8Array(createHash('sha256').update(transcript).digest());
}

/** The tag of a pair's session, without computing any secret. */
export function sessionTag(pair: Pair): Uint8Array {
  return transcriptHash(pair).slice(0, TAG_BYTES);
}

/** The one place that computes a shared secret: at migration time, not before. Drops a public key of small order. */
export function deriveSession({
  secretKey,
  role,
  ...pair
}: Pair & { readonly secretKey: Uint8Array; readonly role: Role }): Session | Drop {
  const secret = sharedSecret(secretKey, role === 'cell' ? pair.peerPublicKey : pair.cellPublicKey);
  if (secret === undefined) return { drop: 'weak-key' };
  const salt = transcriptHash(pair);
  const key = (info: string) => new Uint8Array(hkdfSync('sha256', secret, salt, info, KEY_BYTES));
  return {
    cell: pair.cell,
    tag: salt.slice(0, TAG_BYTES),
    toPeer: key('cell to peer'),
    toCell: key('peer to cell'),
  };
}

export type Move = {
  readonly type: 'move';
  readonly epoch: number;
  /** The destination's public key for the next session. */
  readonly nextPublicKey: Uint8Array;
  /** The HELLO that armed `labels`. */
  readonly transaction: Uint8Array;
  readonly labels: MoveLabels;
};
/** `padded`: as long as a datagram can be, for an answer that may have something to say. */
export type Hold = {
  readonly type: 'hold';
  readonly epoch: number;
  readonly udp: UdpPolicy | 'pause';
  readonly padded?: true;
};
export type Bye = { readonly type: 'bye'; readonly epoch: number; readonly reason: ByeReason };
export type Ack = {
  readonly type: 'ack';
  readonly epoch: number;
} & (
  | {
      readonly acknowledged: 'move';
      readonly nextPublicKey: Uint8Array;
      /** Where the other ends of the cell's flows are now, if they have moved while it was suspended. */
      readonly ends?: readonly Label[];
    }
  | { readonly acknowledged: 'hold'; readonly ends?: readonly Label[] }
  | { readonly acknowledged: 'bye' | 'follow' }
  | { readonly acknowledged: 'arm'; readonly part: number }
);
export type Follow = FollowBody & { readonly type: 'follow'; readonly epoch: number };
export type Arm = ArmBody & { readonly type: 'arm'; readonly epoch: number; readonly part: number };
export type FromCell = Move | Hold | Bye | Follow | Arm;

type Legible = { readonly type: Sealed['type']; readonly detail: number; readonly epoch: number };

/**
 * `labels` are all that `transaction` armed, every part of which the peer answered with its key. The result, and the
 * secret key of `nextPublicKey`, are to be written down before it is sent. MOVE's plaintext:
 *
 *   32b: X25519 public key of the destination for the next session
 *    8b: transaction of the HELLO that armed the labels
 *    1b: number of label groups
 *    1b: reserved, zero
 *    2b: number of zeros at the end
 *        label groups (h2o-labels.ts), zeros
 */
export function createMove(
  session: Session,
  move: Omit<Move, 'type' | 'labels'> & { readonly labels: readonly Label[]; readonly padded?: boolean },
): Uint8Array {
  assert.equal(move.nextPublicKey.length, KEY_BYTES);
  assert.equal(move.transaction.length, TRANSACTION_BYTES);
  const plaintext = concatBytes(move.nextPublicKey, move.transaction, encodeLabels(move.labels, move.padded));
  return seal(session, { type: 'move', detail: 0, epoch: move.epoch }, plaintext);
}

/** Without plaintext, or with zeros alone: the same whoever makes it. */
export function createHold(
  session: Session,
  epoch: number,
  { udp = 'hold', padded = false }: { readonly udp?: Hold['udp']; readonly padded?: boolean } = {},
): Uint8Array {
  const padding = padded ? DATAGRAM_BYTES_MAX - SEALED_HEADER_BYTES - SEAL_BYTES : 0;
  return seal(session, { type: 'hold', detail: UDP_POLICIES[udp], epoch }, new Uint8Array(padding));
}

export function createBye(
  session: Session,
  bye: { readonly epoch: number; readonly reason: ByeReason },
): Uint8Array {
  return seal(session, { type: 'bye', detail: BYE_REASONS[bye.reason], epoch: bye.epoch });
}

/** To be sealed with a new epoch each time, which is to be written down before it is sent. */
export function createFollow(session: Session, { epoch, ...body }: Omit<Follow, 'type'>): Uint8Array {
  return seal(session, { type: 'follow', detail: 0, epoch }, encodeFollow(body));
}

/** One part. All parts have one epoch and transaction; what a part says under them must never change. */
export function createArm(session: Session, { epoch, part, ...body }: Omit<Arm, 'type'>): Uint8Array {
  return seal(session, { type: 'arm', detail: part, epoch }, encodeArm(body));
}

/**
 * ACK's plaintext, for a MOVE: 32b: X25519 public key of the peer side for the next session; and, where the other ends have
 * moved while the cell was suspended, where to, as a MOVE lists labels. For a HOLD: the latter alone. Else none.
 */
export function createAck(session: Session, ack: Ack): Uint8Array {
  const detail =
    ack.acknowledged === 'arm' ? ARM_PART_ACKNOWLEDGED + ack.part : ACKNOWLEDGED[ack.acknowledged];
  const nextKey = ack.acknowledged === 'move' ? ack.nextPublicKey : new Uint8Array();
  const ends = 'ends' in ack && ack.ends !== undefined ? encodeLabels(ack.ends) : new Uint8Array();
  const plaintext = concatBytes(nextKey, ends);
  return seal(session, { type: 'ack', detail, epoch: ack.epoch }, plaintext);
}

function nonceOf({ type, detail, epoch }: Legible): Uint8Array {
  return concatBytes(u8(MESSAGE_TYPES[type]), u8(detail), new Uint8Array(6), u32(epoch));
}

function seal(
  { cell, tag, toPeer, toCell }: Session,
  legible: Legible,
  plaintext: Uint8Array = new Uint8Array(),
): Uint8Array {
  assert(legible.epoch > 0, 'a sealed message has an epoch of its own');
  const { type, detail, epoch } = legible;
  const header = concatBytes(encodeHeader({ type, detail, id: cell }), tag, u32(epoch));
  const key = type === 'ack' ? toCell : toPeer;
  const datagram = concatBytes(header, sealBytes(key, nonceOf(legible), header, plaintext));
  assert(datagram.length <= DATAGRAM_BYTES_MAX);
  return datagram;
}

/** Opens what is sealed under this session; says nothing about its epoch being new. Never throws. */
export function open(session: Session, sealed: Sealed): FromCell | Ack | Drop {
  if (!equalBytes(sealed.cell, session.cell) || !equalBytes(sealed.tag, session.tag))
    return { drop: 'session' };
  const key = sealed.type === 'ack' ? session.toCell : session.toPeer;
  const header = sealed.datagram.subarray(0, SEALED_HEADER_BYTES);
  const box = sealed.datagram.subarray(SEALED_HEADER_BYTES);
  const plaintext = openBytes(key, nonceOf(sealed), header, box);
  return plaintext === undefined ? { drop: 'forged' } : decodePlaintext(sealed, plaintext);
}

function decodePlaintext({ type, detail, epoch }: Legible, plaintext: Uint8Array): FromCell | Ack | Drop {
  if (type === 'move') return decodeMove(epoch, plaintext);
  if (type === 'follow') {
    const body = decodeFollow(byteReader(plaintext));
    return isDrop(body) ? body : { type, epoch, ...body };
  }
  if (type === 'arm') {
    const body = decodeArm(detail, byteReader(plaintext));
    return isDrop(body) ? body : { type, epoch, part: detail, ...body };
  }
  const acknowledged = type === 'ack' ? nameOf(ACKNOWLEDGED, detail) : undefined;
  if (acknowledged === 'move') return decodeMoveAck(epoch, plaintext);
  if (acknowledged === 'hold') return withEnds({ type: 'ack', epoch, acknowledged }, byteReader(plaintext));
  if (type === 'hold') return decodeHold(epoch, detail, plaintext);
  if (plaintext.length > 0) return { drop: 'trailing' };
  if (type === 'ack' && detail >= ARM_PART_ACKNOWLEDGED)
    return { type, epoch, acknowledged: 'arm', part: detail - ARM_PART_ACKNOWLEDGED };
  if (acknowledged !== undefined) return { type: 'ack', epoch, acknowledged };
  const reason = nameOf(BYE_REASONS, detail);
  return type === 'bye' && reason !== undefined ? { type, epoch, reason } : { drop: 'value' };
}

function decodeMoveAck(epoch: number, plaintext: Uint8Array): Ack | Drop {
  const reader = byteReader(plaintext);
  const nextPublicKey = reader.take(KEY_BYTES);
  if (reader.overrun()) return { drop: 'too-short' };
  return withEnds({ type: 'ack', epoch, acknowledged: 'move', nextPublicKey }, reader);
}

function decodeHold(epoch: number, detail: number, plaintext: Uint8Array): Hold | Drop {
  const udp = nameOf(UDP_POLICIES, detail);
  if (udp === undefined) return { drop: 'value' };
  if (plaintext.some((byte) => byte !== 0)) return { drop: 'reserved' };
  return plaintext.length === 0 ? { type: 'hold', epoch, udp } : { type: 'hold', epoch, udp, padded: true };
}

function withEnds(ack: Ack & { readonly acknowledged: 'move' | 'hold' }, reader: ByteReader): Ack | Drop {
  if (reader.remaining() === 0) return ack;
  const ends = decodeLabels(reader);
  if (isDrop(ends)) return ends;
  return ends.armed.length > 0 ? { drop: 'value' } : { ...ack, ends: ends.listed };
}

function decodeMove(epoch: number, plaintext: Uint8Array): Move | Drop {
  const reader = byteReader(plaintext);
  const nextPublicKey = reader.take(KEY_BYTES);
  const transaction = reader.take(TRANSACTION_BYTES);
  const labels = decodeLabels(reader);
  return isDrop(labels) ? labels : { type: 'move', epoch, nextPublicKey, transaction, labels };
}

/** A message that waits for its ACK. */
export type Sent =
  | { readonly type: Acknowledged; readonly epoch: number }
  | { readonly type: 'arm'; readonly epoch: number; readonly part: number };

/** The cell side's reading of an answer: the ACK of exactly the message that it sent, or a drop. */
export function consumeAck(session: Session, sent: Sent, sealed: Sealed): Ack | Drop {
  if (sealed.type !== 'ack') return { drop: 'type' };
  const ack = open(session, sealed);
  if (isDrop(ack)) return ack;
  if (ack.type !== 'ack' || ack.acknowledged !== sent.type || ack.epoch !== sent.epoch)
    return { drop: 'stale' };
  const isOther = ack.acknowledged === 'arm' && sent.type === 'arm' && ack.part !== sent.part;
  return isOther ? { drop: 'stale' } : ack;
}
