/**
 * The peer side's acceptance: pure steps from a state and a datagram to the next state. The agent that takes a step
 *
 *   1. does what the message says (which must be harmless to do twice),
 *   2. writes the state down,
 *   3. and only then sends the ACK;
 *
 * so that after a crash at any point the same MOVE, sent again, ends in the same state.
 *
 *   HELLO ──► armed ──MOVE──► moved (next pair; old keys gone) ──HELLO──► armed again …
 *              │  ▲
 *         HOLD └──┘ BYE                       same datagram again: same ACK again
 */
import { createHash } from 'node:crypto';
import { equalBytes } from './bytes.ts';
import type { Hello, Sealed } from './h2o.ts';
import { armedLabels } from './h2o-claims.ts';
import { encodeLabels, resolveLabels } from './h2o-labels.ts';
import {
  type Drop,
  type DropReason,
  isDrop,
  KEY_BYTES,
  type Label,
  SEALED_HEADER_BYTES,
} from './h2o-layout.ts';
import {
  type Ack,
  type Arm,
  type Bye,
  createAck,
  deriveSession,
  type Follow,
  type FromCell,
  generateKeyPair,
  type Hold,
  type KeyPair,
  type Move,
  open,
  type Pair,
  type Session,
  sessionTag,
} from './h2o-session.ts';
import { SEAL_BYTES } from './seal.ts';

/** Pairs that a peer keeps under one cell id, from one source: one for each of its own addresses that the cell talks to. */
export const PAIRS_PER_CELL_MAX = 8;
/** The newest HELLO transactions whose labels a pair keeps: one that is under way, and one that replaces it. */
export const ARMED_TRANSACTIONS_MAX = 2;
/** Transactions that are known to be over, so that a HELLO of theirs that comes once more arms nothing. */
export const PAST_TRANSACTIONS_MAX = 16;

/** The labels that one transaction armed, by part; `epoch`: of its ARM, where it was no HELLO's. */
export type Armed = {
  readonly transaction: Uint8Array;
  readonly parts: readonly (readonly Label[])[];
  readonly epoch?: number;
};

/** What the peer side keeps of a cell. Plain data: to be written down before an ACK leaves. */
export type PeerState = {
  readonly pair: Pair;
  /** This side's secret of the pair. */
  readonly secretKey: Uint8Array;
  /** The highest epoch accepted. */
  readonly epoch: number;
  /** Newest last. */
  readonly armed: readonly Armed[];
  /** Of this pair, newest last: taken back by a BYE, or replaced before that. */
  readonly past?: readonly Uint8Array[];
  /** Where this side's ends have gone while the cell was suspended: it has to be told once it is back. */
  readonly ends?: readonly Label[];
  /** Computed, once, when the first sealed message of the pair arrives; a drop if the cell side's key is a weak one. */
  readonly session?: Session | Drop;
  /** What was accepted last, to answer it again: SHA-256 of the datagram, and the ACK. */
  readonly last?: { readonly digest: Uint8Array; readonly ack: Uint8Array };
};

/** A MOVE whose labels are all known, also those that it named by digest. */
export type Accepted =
  | (Omit<Move, 'labels'> & { readonly labels: readonly Label[] })
  | Hold
  | Bye
  | Follow
  | Arm;

/** `state` is to be kept in every case: also what is dropped may have computed the session. */
export type Consumed =
  | {
      readonly outcome: 'accepted';
      readonly state: PeerState;
      readonly message: Accepted;
      readonly ack: Uint8Array;
    }
  | { readonly outcome: 'duplicate'; readonly state: PeerState; readonly ack: Uint8Array }
  | { readonly outcome: 'dropped'; readonly state: PeerState; readonly reason: DropReason };

/**
 * The state that a HELLO belongs to: one of `known` (all that are kept under its cell id), or a new one, with a new key
 * pair, at first contact. Undefined if it belongs to none: it shows keys that are not known here, or there are too many
 * `fromThere`, those of `known` whose first contact was from the same source. To be called only for a HELLO that claims a
 * flow which exists here, is at the HELLO's source, and which no other pair has moved with.
 */
export function pairFor(hello: Hello, known: readonly PeerState[], fromThere = known): PeerState | undefined {
  const found = known.find((state) => isPairOf(hello, state));
  if (found !== undefined) return found;
  // Whoever moved here before proves itself with the key that its MOVE announced.
  if (hello.epoch > 0 || fromThere.length >= PAIRS_PER_CELL_MAX) return undefined;
  const { secretKey, publicKey } = generateKeyPair();
  const pair = { cell: hello.cell, epoch: 0, cellPublicKey: hello.publicKey, peerPublicKey: publicKey };
  return { pair, secretKey, epoch: 0, armed: [] };
}

/** Keys that the two agents have exchanged over SSH: of the peer side, and the cell side's public one. */
export type FirstPair = KeyPair & { readonly cellPublicKey: Uint8Array };
/** Epoch of such a pair: above that of a first contact, which so can't replace it. */
export const FIRST_PAIR_EPOCH = 1;

/** `cell`: hexadecimal. */
export function firstState(cell: string, { secretKey, publicKey, cellPublicKey }: FirstPair): PeerState {
  const epoch = FIRST_PAIR_EPOCH;
  const id = new Uint8Array(Buffer.from(cell, 'hex'));
  const pair = { cell: id, epoch, cellPublicKey, peerPublicKey: publicKey };
  return { pair, secretKey, epoch, armed: [] };
}

/** Whether the HELLO shows the keys of this pair. */
export function isPairOf(hello: Hello, { pair }: PeerState): boolean {
  const samePair = hello.epoch === pair.epoch && equalBytes(hello.publicKey, pair.cellPublicKey);
  return samePair && equalBytes(hello.cell, pair.cell);
}

/**
 * Whether a HELLO part is one of an earlier transaction: the network repeats and delays, and what was replaced or taken back
 * since must not be armed in the place of what is armed now.
 */
export function isPast(
  { armed, past = [] }: PeerState,
  { transaction }: Pick<Hello | Arm, 'transaction'>,
): boolean {
  const replaced = armed.slice(0, -1).map((each) => each.transaction);
  return [...past, ...replaced].some((each) => equalBytes(each, transaction));
}

function pastWith({ past = [] }: PeerState, over: readonly Armed[]): readonly Uint8Array[] {
  return [...past, ...over.map(({ transaction }) => transaction)].slice(-PAST_TRANSACTIONS_MAX);
}

/** With the labels of a HELLO part. A new transaction says everything anew; the oldest one is forgotten. */
export function arm(state: PeerState, hello: Hello): PeerState {
  const labels = armedLabels(hello.claims);
  if (labels.length === 0 || isPast(state, hello)) return state;
  return withPart(state, hello, labels);
}

type Part = Pick<Hello | Arm, 'transaction' | 'part' | 'parts'>;

function withPart(state: PeerState, of: Part, labels: readonly Label[], epoch?: number): PeerState {
  const index = state.armed.findIndex(({ transaction }) => equalBytes(transaction, of.transaction));
  const parts = Array.from({ length: of.parts }, (_, part) => state.armed[index]?.parts[part] ?? []);
  const { transaction, part } = of;
  const armed = { transaction, parts: parts.with(part, labels), ...(epoch !== undefined && { epoch }) };
  if (index >= 0) return { ...state, armed: state.armed.with(index, armed) };
  const over = state.armed.slice(0, -(ARMED_TRANSACTIONS_MAX - 1));
  return {
    ...state,
    armed: [...state.armed, armed].slice(-ARMED_TRANSACTIONS_MAX),
    past: pastWith(state, over),
  };
}

/** The state among `known` that a sealed message is for, also one that it was for before it moved. */
export function stateFor(sealed: Sealed, known: readonly PeerState[]): PeerState | undefined {
  const tagged = known.find(({ pair }) => equalBytes(sessionTag(pair), sealed.tag));
  return tagged ?? known.find((state) => isLast(state, sealed));
}

function isLast({ last }: PeerState, { datagram }: Sealed): boolean {
  return last !== undefined && equalBytes(last.digest, digestOf(datagram));
}

export function consumeFromCell(
  state: PeerState,
  sealed: Sealed,
  newKeyPair: () => KeyPair = generateKeyPair,
): Consumed {
  if (state.last !== undefined && isLast(state, sealed)) {
    return { outcome: 'duplicate', state, ack: state.last.ack };
  }
  const dropped = (reason: DropReason, kept = state): Consumed => ({
    outcome: 'dropped',
    state: kept,
    reason,
  });
  if (sealed.type === 'ack') return dropped('type');
  // Before the public-key operation: what is not for this session, or old, must cost nothing.
  if (!equalBytes(sealed.tag, sessionTag(state.pair))) return dropped('session');
  if (sealed.epoch <= state.epoch) return dropped('stale');
  const session = state.session ?? deriveSession({ ...state.pair, secretKey: state.secretKey, role: 'peer' });
  const opened = { ...state, session };
  if (isDrop(session)) return dropped(session.drop, opened);
  const message = openFromCell(session, sealed, state.armed);
  return isDrop(message)
    ? dropped(message.drop, opened)
    : accept(opened, session, message, sealed.datagram, newKeyPair);
}

function openFromCell(session: Session, sealed: Sealed, armed: readonly Armed[]): Accepted | Drop {
  const message: FromCell | Ack | Drop = open(session, sealed);
  if (isDrop(message)) return message;
  if (message.type === 'ack') return { drop: 'type' };
  if (message.type !== 'move') return message;
  const transaction = armed.find((each) => equalBytes(each.transaction, message.transaction));
  const labels = resolveLabels(message.labels, transaction?.parts.flat() ?? []);
  return 'drop' in labels ? labels : { ...message, labels };
}

function accept(
  state: PeerState,
  session: Session,
  message: Accepted,
  datagram: Uint8Array,
  newKeyPair: () => KeyPair,
): Consumed {
  const { type, epoch } = message;
  if (type === 'arm') return acceptPart(state, session, message);
  const digest = digestOf(datagram);
  const sealedBytes = datagram.length - SEALED_HEADER_BYTES - SEAL_BYTES;
  if (type !== 'move') {
    const tells = type === 'hold' && fits(state.ends, sealedBytes);
    const ack = createAck(session, {
      type: 'ack',
      epoch,
      acknowledged: type,
      ...(tells && { ends: state.ends }),
    } as Ack);
    // A suspended cell's labels stay understood; an aborted or ended move's must be forgotten.
    const taken = type === 'bye' ? { armed: [], past: pastWith(state, state.armed) } : {};
    return { outcome: 'accepted', state: { ...state, ...taken, epoch, last: { digest, ack } }, message, ack };
  }
  const { secretKey, publicKey } = newKeyPair();
  const ends = fits(state.ends, sealedBytes - KEY_BYTES) ? { ends: state.ends } : {};
  const ack = createAck(session, {
    type: 'ack',
    epoch,
    acknowledged: 'move',
    nextPublicKey: publicKey,
    ...ends,
  });
  const { cell } = state.pair;
  const pair = { cell, epoch, cellPublicKey: message.nextPublicKey, peerPublicKey: publicKey };
  return {
    outcome: 'accepted',
    state: { pair, secretKey, epoch, armed: [], last: { digest, ack } },
    message,
    ack,
  };
}

/**
 * Its parts come in any order, so none of them counts as the highest epoch that was accepted: until something newer is, each
 * is answered however often it comes. An arming gives way to a later one.
 */
function acceptPart(state: PeerState, session: Session, message: Arm): Consumed {
  const { epoch, part, parts, transaction } = message;
  const dropped = (reason: DropReason) => ({ outcome: 'dropped', state, reason }) as const;
  const known = state.armed.find((each) => equalBytes(each.transaction, transaction));
  if (isPast(state, message) || state.armed.some((each) => (each.epoch ?? 0) > epoch))
    return dropped('stale');
  if (known !== undefined && (known.epoch !== epoch || known.parts.length !== parts)) return dropped('value');
  const ack = createAck(session, { type: 'ack', epoch, acknowledged: 'arm', part });
  if ((known?.parts[part]?.length ?? 0) > 0) return { outcome: 'duplicate', state, ack };
  return { outcome: 'accepted', state: withPart(state, message, message.labels, epoch), message, ack };
}

/** No answer is longer than what it answers: whoever resumes a cell pads what it says. */
function fits(ends: readonly Label[] | undefined, bytesMax: number): ends is readonly Label[] {
  return ends !== undefined && encodeLabels(ends).length <= bytesMax;
}

function digestOf(datagram: Uint8Array): Uint8Array {
  return new Uint8Array(createHash('sha256').update(datagram).digest());
}
