/**
 * HELLOs at the peer side: what a cell asks or announces of its flows here. Whoever may not be where a HELLO seems to come
 * from gets a receipt, whoever may not claim a flow a WELCOME that says nothing; what is armed is written down before it is
 * answered.
 */
import { type Endpoint, endpointKey } from '../address.ts';
import type { Trust } from '../trust/trust.ts';
import { encodeWelcome, type Hello, type Welcome } from '../wire/h2o.ts';
import { claimedFlows } from '../wire/h2o-claims.ts';
import { H2O_PORT, IDENTITY_BYTES, KEY_BYTES, SIGNATURE_BYTES } from '../wire/h2o-layout.ts';
import { arm, isPairOf, isPast, type PeerState, pairFor } from '../wire/h2o-peer.ts';
import type { Admission } from './admission.ts';
import type { PeerRecord, PeerRecords } from './peer-records.ts';
import type { ReadyKeys } from './ready-keys.ts';
import { Receipts } from './receipts.ts';
import type { RemoteCells } from './remote-cells.ts';
import { hasRoomFor, roomFor } from './room.ts';
import type { H2oSocket, Sender } from './socket.ts';
import { SourceBudgets } from './source-budgets.ts';
import type { Sweeper } from './sweeper.ts';
import { TokenBucket } from './token-bucket.ts';

/** HELLO parts are answered this long after the first of them at the latest: their sender waits for a second. */
const UNANSWERED_MS_MAX = 250;
/** Receipts a second, and the burst: each is a hash. One source has a share of its own in what is decoded. */
const RECEIPTS_PER_SECOND_MAX = 5_000;
const RECEIPTS_BURST_MAX = 5_000;
/** HELLO parts a second that are looked at, and the burst: each may cost a look at the kernel's socket table. */
const HELLO_PER_SECOND_MAX = 2_000;
const HELLO_BURST_MAX = 4_000;
/** The same for one source, which has shown that it is there: a cell of 10,000 connections, announced and armed. */
const HELLO_PER_SOURCE_SECOND_MAX = 100;
const HELLO_PER_SOURCE_BURST_MAX = 200;

/** A HELLO part that is armed and not written down yet. */
type Unanswered = {
  readonly hello: Hello;
  readonly claimable: boolean[];
  readonly record: PeerRecord;
  readonly from: Sender;
  readonly arms: boolean;
  readonly at: number;
};

type Answered = Pick<Welcome, 'publicKey' | 'claimable' | 'untrusted' | 'receipt' | 'identity' | 'signature'>;
const UNSIGNED = { identity: new Uint8Array(IDENTITY_BYTES), signature: new Uint8Array(SIGNATURE_BYTES) };

type Needs = {
  readonly socket: H2oSocket;
  readonly trust: Trust;
  readonly records: PeerRecords;
  readonly admission: Admission;
  readonly cells: RemoteCells;
  readonly sweeper: Sweeper;
  readonly readyKeys: ReadyKeys;
  /** Refusals that are written to the log: whoever asks in vain must not fill a disk. */
  readonly refusals: TokenBucket;
  readonly log: { info(fields: object, message: string): void; warn(fields: object, message: string): void };
};

export class Hellos {
  readonly #needs: Needs;
  readonly #unanswered: Unanswered[] = [];
  readonly #receipts = new Receipts();
  readonly #receiptsLeft = new TokenBucket(RECEIPTS_PER_SECOND_MAX, RECEIPTS_BURST_MAX);
  readonly #left = new TokenBucket(HELLO_PER_SECOND_MAX, HELLO_BURST_MAX);
  readonly #leftOf = new SourceBudgets(HELLO_PER_SOURCE_SECOND_MAX, HELLO_PER_SOURCE_BURST_MAX);

  constructor(needs: Needs) {
    this.#needs = needs;
  }

  /**
   * Whether it is to be served. Port 18018 is not privileged everywhere, but while an agent holds it nobody else of its host can
   * send from it.
   */
  isHeard(hello: Hello, from: Sender): boolean {
    if (from.port !== H2O_PORT) return false;
    if (!this.#receipts.isShown(hello, from.address)) {
      this.#handReceipt(hello, from);
      return false;
    }
    return this.#leftOf.take(from.address) && this.#left.take();
  }

  /** Nothing is looked at, and nothing kept, for whoever may not be where the HELLO seems to come from. */
  #handReceipt(hello: Hello, from: Sender): void {
    if (!this.#receiptsLeft.take()) return;
    const receipt = this.#receipts.of(hello, from.address);
    const claimable = claimedFlows(hello.claims).map(() => false);
    this.#send(hello, { publicKey: new Uint8Array(KEY_BYTES), claimable, receipt, ...UNSIGNED }, from);
  }

  /** Those that are served and not answered have waited for as long as they may. */
  get isDue(): boolean {
    const since = this.#unanswered[0]?.at ?? Number.POSITIVE_INFINITY;
    return performance.now() - since > UNANSWERED_MS_MAX;
  }

  /** What was armed is written down before it is answered: once for all parts that came together. */
  answer(): void {
    const { records, readyKeys } = this.#needs;
    const answered = this.#unanswered.splice(0).filter(({ record }) => records.has(record));
    for (const record of new Set(answered.map(({ record }) => record))) records.save(record);
    for (const { hello, claimable, record, from } of answered) {
      if (record.state === undefined) continue;
      this.#welcome(hello, claimable, record.state.pair.peerPublicKey, from);
    }
    for (const { record, arms } of answered) if (arms) readyKeys.make(record);
  }

  async serve(hello: Hello, from: Sender): Promise<void> {
    const { socket, trust, records, admission, cells, sweeper, log } = this.#needs;
    const cell = Buffer.from(hello.cell).toString('hex');
    const at = performance.now();
    const known = records.of(cell);
    const pair = known.find(({ state }) => state !== undefined && isPairOf(hello, state));
    const { ids, refused } = await admission.judge(hello, { cell, pair, from: from.address });
    if (Object.keys(refused).length > 0 && this.#needs.refusals.take())
      log.info(
        { cell_id: cell, peer: from.address, flows: ids.length, refused },
        'flows were claimed in vain',
      );
    const none = ids.map(() => false);
    const isClaimed = ids.some((id) => id !== undefined);
    // Only now: who is not where a flow is costs no public-key operation.
    const admitted = isClaimed ? trust.admit(hello, from.address) : 'trusted';
    if (admitted === 'unsigned') return socket.drop('unsigned');
    if (admitted !== 'trusted') return this.#refuse(hello, none, admitted.refused, from);
    const states = (all: readonly PeerRecord[]) => all.flatMap((record) => record.state ?? []);
    // Whoever has only read a cell's id somewhere makes no difference to its first contact.
    const fromThere = known.filter(({ origin }) => origin === from.address);
    const state = isClaimed ? pairFor(hello, states(known), states(fromThere)) : undefined;
    if (state === undefined || isPast(state, hello))
      return this.#welcome(hello, none, new Uint8Array(KEY_BYTES), from);
    const record = known.find((each) => each.state === state) ?? (await this.#create(cell, state, from));
    const claimed = ids.flatMap((id) => id ?? []);
    if (record === undefined || !hasRoomFor(record, claimed, records.all()))
      return this.#crowded(hello, none, from);
    record.state = arm(state, hello);
    record.by = { address: from.address, identity: hello.identity };
    record.touchedAt = Date.now();
    const wires = wiresOf(hello);
    // Whose cell is about to move, and where to: their next messages are those that must not be lost.
    for (const address of new Set([from.address, ...[...wires.values()].map((wire) => wire.address)]))
      socket.expect(address);
    if (wires.size > 0) {
      // A label may have belonged to a cell that has ended: its flows must not be in the way.
      if (this.#unanswered.length === 0) await sweeper.dropEnded(1);
      await cells.arm(record, claimed, wires);
    }
    record.keeps ||= hello.keeps;
    if (record.keeps) records.claim(record, claimed);
    // Who moves without a word one day has to know what comes along.
    const claimable = ids.map((id) => id !== undefined && (!hello.keeps || records.holds(record, id)));
    if (!claimable.includes(true)) return this.#welcome(hello, none, new Uint8Array(KEY_BYTES), from);
    this.#unanswered.push({ hello, claimable, record, from, arms: wires.size > 0, at });
  }

  async #create(cell: string, state: PeerState, { address }: Sender): Promise<PeerRecord | undefined> {
    const { records, cells } = this.#needs;
    const { isThere, displaces } = roomFor(records.all(), address);
    if (displaces !== undefined) await cells.forget(displaces);
    return isThere ? records.create(cell, state, address) : undefined;
  }

  /** Its sender can't be followed, or not with so many flows: it goes without. */
  #crowded(hello: Hello, none: boolean[], from: Sender): void {
    if (this.#needs.refusals.take())
      this.#needs.log.warn(
        { cell_id: Buffer.from(hello.cell).toString('hex'), peer: from.address, flows: none.length },
        'REFUSED: this host follows as many cells, or flows of that host, as it can',
      );
    this.#welcome(hello, none, new Uint8Array(KEY_BYTES), from);
  }

  /** Signed, unless it says nothing. */
  #welcome(hello: Hello, claimable: boolean[], publicKey: Uint8Array, from: Sender): void {
    const signed = claimable.includes(true) ? this.#needs.trust.answer(hello, { publicKey }) : UNSIGNED;
    this.#send(hello, { publicKey, claimable, ...signed }, from);
  }

  /** Told rather than left to guess: a mover would take a peer that is silent for one without an agent. */
  #refuse(hello: Hello, claimable: boolean[], untrusted: { known: Uint8Array }, from: Sender): void {
    const publicKey = new Uint8Array(KEY_BYTES);
    const signed = this.#needs.trust.answer(hello, { publicKey, untrusted });
    this.#send(hello, { publicKey, claimable, untrusted, ...signed }, from);
  }

  #send({ cell, transaction, epoch, part, parts }: Hello, answer: Answered, { address, port }: Sender): void {
    const welcome = { type: 'welcome', cell, transaction, epoch, part, parts, ...answer } as const;
    this.#needs.socket.send(encodeWelcome(welcome), address, port);
  }
}

/** Where the endpoints of the cell will be, by endpointKey. */
function wiresOf({ claims }: Hello): ReadonlyMap<string, Endpoint> {
  const armed = claims.flatMap(({ protocol, arm: wire, local }) =>
    wire === undefined ? [] : [[endpointKey(protocol, local), wire] as const],
  );
  return new Map(armed);
}
