/** The cell side of H2O: HELLO and its WELCOMEs while the process runs, MOVE and BYE until they are acknowledged. */
import { setTimeout as sleep } from 'node:timers/promises';
import { endpointKey, type Flow, flowKey, knownFlow, type PlacedFlow } from '../address.ts';
import type { PeerKeys } from '../cell/registry.ts';
import type { Trust } from '../trust/trust.ts';
import { answers, encodeHello, type Hello, newTransaction, splitHello, type Welcome } from '../wire/h2o.ts';
import { type Claim, claimedFlows } from '../wire/h2o-claims.ts';
import { type Acknowledged, H2O_PORT, isDrop, type Label } from '../wire/h2o-layout.ts';
import { type Ack, consumeAck, type Session } from '../wire/h2o-session.ts';
import { type HeldReceipts, ShownReceipt } from './shown-receipt.ts';
import type { H2oSocket } from './socket.ts';
import { WelcomeReading } from './welcome-reading.ts';

/** A HELLO part is sent this often before its peer counts as silent, if no other part is answered meanwhile. */
export const HELLO_TRIES_MAX = 10;
const HELLO_RETRY_MS = 200;
/** How long an answer is waited for: tries, each after a wait that is doubled up to `retryMsMax`. */
export type Patience = { readonly triesMax: number; readonly retryMsMax: number };
const ASKING: Patience = { triesMax: HELLO_TRIES_MAX, retryMsMax: HELLO_RETRY_MS };
/**
 * A peer that has answered before may have to load its datapath and to enter thousands of flows now, and is only kept from
 * it by being asked more often. Fifteen seconds in all: the process runs meanwhile.
 */
export const ARMING: Patience = { triesMax: 17, retryMsMax: 1_000 };
/** First wait for an ACK, doubled up to the last, for at most RETRY_TOTAL_MS_MAX. */
const ACK_RETRY_FIRST_MS = 20;
const ACK_RETRY_LAST_MS = 1_000;
const ACK_TOTAL_MS_MAX = 600_000;

export type HelloResult = {
  /** No agent answered for some part. */
  readonly silent: boolean;
  /** Flows (as `knownFlow` names them) that the peer has and lets this cell claim, as flowKey. */
  readonly claimable: ReadonlySet<string>;
  /** All zeros, or the peer's key for the session. */
  readonly peerPublicKey: Uint8Array | undefined;
};

/** Claims of `flows`, by the names that their peers have for them, armed where `labels` has their endpoint. */
export function claimsOf(
  flows: readonly (Flow & Pick<PlacedFlow, 'known'>)[],
  labels: readonly Label[],
): Claim[] {
  const wires = new Map(labels.map(({ protocol, virtual, wire }) => [endpointKey(protocol, virtual), wire]));
  const groups = Map.groupBy(
    flows.map(knownFlow),
    ({ protocol, local, remote }) => `${endpointKey(protocol, local)} ${remote.address}`,
  );
  return [...groups.values()].flatMap((same) => {
    const [first] = same;
    if (first === undefined) return [];
    const { protocol, local, remote } = first;
    const arm = wires.get(endpointKey(protocol, local));
    return [
      {
        protocol,
        local,
        peerAddress: remote.address,
        peerPorts: same.map((flow) => flow.remote.port),
        ...(arm === undefined ? {} : { arm }),
      },
    ];
  });
}

/** How this agent is heard, and whom it believes. */
export type Voice = { readonly socket: H2oSocket; readonly trust: Trust };
/** A HELLO without what its sender signs, and before it is cut into parts. */
export type Unsigned = Omit<Hello, 'type' | 'part' | 'parts' | 'identity' | 'signature' | 'receipt'> &
  Pick<About, 'receipts'>;

/** A flow, and the address of this host that its other end takes it to be at, where the route prefers another. */
export type SourcedFlow = PlacedFlow & { readonly source?: string | undefined };

export type Asked = HelloResult & {
  /** Of the most flows. */
  readonly transaction: Uint8Array;
};

type About = Pick<Hello, 'cell' | 'epoch' | 'publicKey' | 'keeps'> & {
  /** Of the peer for this pair, by source; what it hands out is put there. */
  readonly receipts?: HeldReceipts;
};

/** What a HELLO says of a cell (hex) and of its pair with the peer. */
export function aboutOf(cell: string, keys: Pick<PeerKeys, 'epoch' | 'publicKey' | 'receipts'>): About {
  keys.receipts ??= {};
  const { epoch, publicKey, receipts } = keys;
  return { cell: Buffer.from(cell, 'hex'), epoch, publicKey, receipts };
}

/**
 * HELLO for all these flows: they count only from where their other ends take them to be, so a transaction for each such
 * address.
 * @throws OsmosisError PEER_UNTRUSTED as exchangeHello
 */
export async function sayHello(
  voice: Voice,
  address: string,
  about: About,
  flows: readonly SourcedFlow[],
  labels: readonly Label[],
  signal: AbortSignal,
  patience: Patience = ASKING,
): Promise<Asked> {
  const fewestFirst = [...Map.groupBy(flows, ({ source }) => source)].toSorted(
    ([, a], [, b]) => a.length - b.length,
  );
  const asked: Asked[] = [];
  for (const [source, its] of fewestFirst) {
    const transaction = newTransaction();
    const hello = { ...about, transaction, claims: claimsOf(its, labels) };
    const result = await exchangeHello(voice, address, hello, signal, patience, source);
    asked.push({ ...result, transaction });
    if (result.silent) break;
  }
  return {
    silent: asked.some(({ silent }) => silent),
    claimable: new Set(asked.flatMap(({ claimable }) => [...claimable])),
    peerPublicKey: asked.find(({ peerPublicKey }) => peerPublicKey !== undefined)?.peerPublicKey,
    transaction: asked.at(-1)?.transaction ?? newTransaction(),
  };
}

/**
 * Exchanges one HELLO transaction with the peer at `address`. Ends silently after `triesMax` tries without an answer. Where
 * the peer has given no receipt for this source yet, or wants another one, that takes one exchange of a part more.
 * @throws OsmosisError PEER_UNTRUSTED where the peer's identity is not to be believed, or it does not believe ours.
 */
export async function exchangeHello(
  { socket, trust }: Voice,
  address: string,
  { receipts = {}, ...hello }: Unsigned,
  signal: AbortSignal,
  { triesMax, retryMsMax }: Patience = ASKING,
  source?: string,
): Promise<HelloResult> {
  const shown = new ShownReceipt(receipts, source);
  const offer = { ...hello, ...trust.offer(hello), receipt: shown.bytes };
  // Without a receipt nothing is looked at: one part is enough to get it.
  let isHeard = shown.isHeld;
  let isAgain = false;
  const waiting = new Map(splitHello(offer).map((part) => [part.part, part]));
  const reading = new WelcomeReading(trust, address, offer);
  const claimable = new Set<string>();
  let wake: (() => void) | undefined;
  socket.expect(address);
  const stop = socket.listen((message) => {
    if (message.type !== 'welcome') return;
    const part = waiting.get(message.part);
    if (part === undefined || !answers(message, part)) return;
    const read = message.receipt === undefined ? reading.read(message) : 'receipt';
    isAgain ||= message.receipt !== undefined && shown.take(message.receipt);
    if (read === 'unsigned') socket.drop('unsigned');
    if (read === 'believed') {
      waiting.delete(part.part);
      addClaimable(message, part, claimable);
    }
    isAgain ||= !isHeard && read === 'believed';
    isHeard ||= isAgain;
    if (waiting.size === 0 || isAgain || reading.error !== undefined) wake?.();
  });
  try {
    // A peer that answers part by part has much to look up: only one that has answered none for so long is silent.
    for (let tries = 0, left = waiting.size; tries < triesMax && waiting.size > 0; tries++) {
      signal.throwIfAborted();
      if (waiting.size < left || isAgain) tries = 0;
      left = waiting.size;
      isAgain = false;
      const answered = new Promise<void>((resolve) => {
        wake = resolve;
      });
      for (const part of [...waiting.values()].slice(0, isHeard ? undefined : 1))
        socket.send(encodeHello({ ...part, receipt: shown.bytes }), address, H2O_PORT, source);
      const wait = Math.min(HELLO_RETRY_MS * 2 ** tries, retryMsMax);
      await Promise.race([answered, sleep(wait, undefined, { signal })]);
      if (reading.error !== undefined) throw reading.error;
    }
  } finally {
    stop();
  }
  return { silent: waiting.size > 0, claimable, peerPublicKey: reading.publicKey };
}

function addClaimable(welcome: Welcome, part: Hello, claimable: Set<string>): void {
  claimedFlows(part.claims).forEach((flow, index) => {
    if (welcome.claimable[index] === true) claimable.add(flowKey(flow));
  });
}

export type Sent = { readonly type: Acknowledged; readonly epoch: number };

/**
 * Sends `datagram` to `address` until its ACK comes: the identical bytes each time. Undefined when the time is up or
 * `signal` fires.
 */
export async function sendUntilAcknowledged(
  socket: H2oSocket,
  address: string,
  { session, sent, datagram }: { session: Session; sent: Sent; datagram: Uint8Array },
  signal: AbortSignal,
): Promise<Ack | undefined> {
  let ack: Ack | undefined;
  let wake: (() => void) | undefined;
  socket.expect(address);
  const stop = socket.listen((message) => {
    if (message.type !== 'ack') return;
    const opened = consumeAck(session, sent, message);
    if (isDrop(opened)) return;
    ack = opened;
    wake?.();
  });
  try {
    let wait = ACK_RETRY_FIRST_MS;
    for (let waited = 0; waited < ACK_TOTAL_MS_MAX && ack === undefined; waited += wait) {
      const answered = new Promise<void>((resolve) => {
        wake = resolve;
      });
      socket.send(datagram, address);
      await Promise.race([answered, sleep(wait, undefined, { signal, ref: false })]);
      wait = Math.min(wait * 2, ACK_RETRY_LAST_MS);
    }
  } catch (error) {
    if (!signal.aborted) throw error;
  } finally {
    stop();
  }
  return ack;
}
