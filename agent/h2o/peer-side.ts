/**
 * The peer side of H2O: what this host does for cells of other hosts that its own processes talk to. It arms, flips and
 * forgets flows in the datapath; whether a message is to be believed is decided in wire/h2o-peer.ts.
 */
import { randomInt } from 'node:crypto';
import { type Endpoint, type Flow, flowKey } from '../address.ts';
import type { Datapath } from '../datapath/datapath.ts';
import { acceptOf, type FlowEntry, type WireSlot } from '../datapath/model.ts';
import { routeTo } from '../host/routes.ts';
import { Store } from '../state/store.ts';
import { encodeWelcome, type Hello, type Message, type Sealed } from '../wire/h2o.ts';
import { claimedFlows } from '../wire/h2o-claims.ts';
import { DROP_REASONS, H2O_PORT, isDrop, KEY_BYTES, type Label } from '../wire/h2o-layout.ts';
import { type Accepted, arm, consumeFromCell, type PeerState, pairFor, stateFor } from '../wire/h2o-peer.ts';
import { deriveSession, generateKeyPair, type KeyPair } from '../wire/h2o-session.ts';
import { KernelFlows } from './kernel-flows.ts';
import type { H2oSocket, Sender } from './socket.ts';
import { TokenBucket } from './token-bucket.ts';
import { WaitingMessages } from './waiting.ts';

/** Cells of other hosts that this host knows at once. */
const CELLS_MAX = 4_096;
/** HELLO parts are answered this long after the first of them at the latest: their sender waits for a second. */
const UNANSWERED_MS_MAX = 250;
/** Datagrams that wait for their turn; more are dropped, and their senders send again. */
const QUEUE_MAX = 1_024;
/** HELLO parts a second that are looked at, and the burst: each may cost a look at the kernel's socket table. */
const HELLO_PER_SECOND_MAX = 500;
const HELLO_BURST_MAX = 1_000;
/** An armed move that has not happened after this long will not: longer than every deadline of a migration together. */
const ARMED_MS_MAX = 600_000;
/** Keys of a cell with no flow here are kept this long for its next HELLO: longer than that is repeated. */
const IDLE_MS_MAX = 30_000;
const SWEEP_MS = 2_000;
/** A flow is forgotten when its socket is missing in this many sweeps in a row. */
const SWEEPS_MISSING_MAX = 2;
const BOTH_SLOTS = acceptOf(0, 1);
/** Asking for a route, and whether its device is attached, starts seven programs. */
const ROUTE_AGE_MS_MAX = 2_000;

type PeerFlow = { entry: FlowEntry; missing: number };

/** What this host keeps of one cell (and one of its own addresses): keys, a side in the datapath, flows. */
type PeerRecord = {
  cell: string;
  state: PeerState;
  side: number;
  active: 0 | 1;
  /** By flowKey of this host's view. */
  flows: Map<string, PeerFlow>;
  armedAt: number | undefined;
  touchedAt: number;
};
/** A HELLO part that is armed and not written down yet. */
type Unanswered = {
  hello: Hello;
  claimable: boolean[];
  record: PeerRecord;
  from: Sender;
  arms: boolean;
  at: number;
};
type StoredState = Omit<PeerRecord, 'flows'>;
type StoredFlows = { side: number; flows: PeerFlow[] };

type Log = { info(fields: object, message: string): void; warn(fields: object, message: string): void };

export class PeerSide {
  readonly #socket: H2oSocket;
  readonly #datapath: Datapath;
  /** Apart, so that a MOVE, which changes the state only, writes little before its ACK. */
  readonly #states: Store<StoredState>;
  readonly #flows: Store<StoredFlows>;
  readonly #log: Log;
  readonly #records = new Map<number, PeerRecord>();
  #turn: Promise<void> = Promise.resolve();
  readonly #waiting = new WaitingMessages(QUEUE_MAX);
  readonly #unanswered: Unanswered[] = [];
  readonly #hellos = new TokenBucket(HELLO_PER_SECOND_MAX, HELLO_BURST_MAX);
  readonly #kernel = new KernelFlows();
  /** Made while a cell is armed, for the ACK of its MOVE. */
  readonly #nextKeys = new Map<number, KeyPair>();
  readonly #routes = new Map<string, { at: number; removals: number; ifindex: number }>();
  #sweeper: NodeJS.Timeout | undefined;

  constructor(socket: H2oSocket, datapath: Datapath, directory: string, log: Log) {
    this.#socket = socket;
    this.#datapath = datapath;
    this.#states = new Store(directory);
    this.#flows = new Store(`${directory}/flows`);
    this.#log = log;
  }

  start(): void {
    const flowsOf = new Map(this.#flows.all().map(({ side, flows }) => [side, flows]));
    for (const state of this.#states.all()) {
      const flows = (flowsOf.get(state.side) ?? []).map((flow) => [flowKey(flow.entry), flow] as const);
      this.#records.set(state.side, { ...state, flows: new Map(flows) });
    }
    this.#socket.listen((message, from) => this.#enqueue(message, from));
    this.#sweeper = setInterval(() => this.#inTurn(() => this.#sweep()), SWEEP_MS);
    this.#sweeper.unref();
  }

  async stop(): Promise<void> {
    clearInterval(this.#sweeper);
    await this.#turn;
  }

  /** One row a cell, for `osmosis ps` and `osmosis datapath`. */
  list(): { cell: string; epoch: number; flows: number; state: string; wire: string[] }[] {
    return [...this.#records.values()].map(({ cell, state, flows, active, armedAt }) => ({
      cell,
      epoch: state.pair.epoch,
      flows: flows.size,
      state: armedAt !== undefined ? 'armed' : state.pair.epoch > 0 ? 'moved' : 'home',
      wire: [
        ...new Set([...flows.values()].map(({ entry }) => entry.wireRemote[active]?.endpoint.address ?? '')),
      ],
    }));
  }

  #enqueue(message: Message, from: Sender): void {
    const forUs =
      message.type === 'hello' ||
      message.type === 'move' ||
      message.type === 'hold' ||
      message.type === 'bye';
    if (forUs && this.#waiting.add(message, from)) this.#inTurn(() => this.#serveNext());
  }

  async #serveNext(): Promise<void> {
    const next = this.#waiting.take();
    try {
      if (next?.message.type === 'hello') await this.#hello(next.message, next.from);
      else if (next !== undefined) await this.#sealed(next.message, next.from);
    } finally {
      const since = this.#unanswered[0]?.at ?? Number.POSITIVE_INFINITY;
      if (!this.#waiting.hasHello || performance.now() - since > UNANSWERED_MS_MAX) this.#answerHellos();
    }
  }

  /** What was armed is written down before it is answered: once for all parts that came together. */
  #answerHellos(): void {
    const answered = this.#unanswered
      .splice(0)
      .filter(({ record }) => this.#records.get(record.side) === record);
    for (const record of new Set(answered.map(({ record }) => record))) this.#save(record);
    for (const { hello, claimable, record, from } of answered)
      this.#welcome(hello, claimable, record.state.pair.peerPublicKey, from);
    for (const { record, arms } of answered) if (arms) this.#makeReady(record);
  }

  /** One after the other: two messages about one cell must not meet half done. */
  #inTurn(step: () => Promise<void>): void {
    this.#turn = this.#turn.then(step).catch((error: unknown) => {
      this.#log.warn(
        { error: error instanceof Error ? error.message : String(error) },
        'a datagram could not be served',
      );
    });
  }

  async #hello(hello: Hello, from: Sender): Promise<void> {
    // Port 18018 is not privileged everywhere, but while an agent holds it nobody else of its host can send from it.
    if (from.port !== H2O_PORT || !this.#hellos.take()) return;
    const cell = hex(hello.cell);
    const known = this.#recordsOf(cell);
    const at = performance.now();
    const flows = claimedFlows(hello.claims);
    const claimable = flows.map((flow) => this.#isClaimable(flow, cell, from.address));
    const state = claimable.includes(true)
      ? pairFor(
          hello,
          known.map((record) => record.state),
        )
      : undefined;
    if (state === undefined)
      return this.#welcome(
        hello,
        flows.map(() => false),
        new Uint8Array(KEY_BYTES),
        from,
      );
    const record = known.find((each) => each.state === state) ?? this.#newRecord(cell, state);
    if (record === undefined) return;
    record.state = arm(state, hello);
    record.touchedAt = Date.now();
    const taken = flows.filter((_flow, index) => claimable[index]);
    const arms = new Map(
      hello.claims.flatMap(({ arm: wire, local }) =>
        wire === undefined ? [] : [[endpointKey(local), wire]],
      ),
    );
    if (arms.size > 0) await this.#arm(record, taken, arms);
    this.#unanswered.push({ hello, claimable, record, from, arms: arms.size > 0, at });
  }

  /** An armed cell is about to move: what its MOVE will cost in public-key operations is spent now, off the gap's path. */
  #makeReady(record: PeerRecord): void {
    this.#nextKeys.set(record.side, this.#nextKeys.get(record.side) ?? generateKeyPair());
    if (record.state.session !== undefined) return;
    const { pair, secretKey } = record.state;
    const session = deriveSession({ ...pair, secretKey, role: 'peer' });
    if (!isDrop(session)) record.state = { ...record.state, session };
  }

  #welcome(hello: Hello, claimable: boolean[], publicKey: Uint8Array, { address, port }: Sender): void {
    const { cell, transaction, epoch, part, parts } = hello;
    this.#socket.send(
      encodeWelcome({ type: 'welcome', cell, transaction, epoch, publicKey, part, parts, claimable }),
      address,
      port,
    );
  }

  /** `flow` is the cell's view: its remote endpoint is ours. It must exist here, and be now where the HELLO came from. */
  #isClaimable(flow: Flow, cell: string, from: string): boolean {
    const key = flowKey(ownView(flow));
    if (!this.#kernel.has(key)) return false;
    for (const record of this.#records.values()) {
      const found = record.flows.get(key);
      if (found === undefined) continue;
      if (record.cell !== cell && record.state.pair.epoch > 0) return false;
      if (record.state.pair.epoch > 0)
        return found.entry.wireRemote[record.active]?.endpoint.address === from;
    }
    return flow.local.address === from;
  }

  #newRecord(cell: string, state: PeerState): PeerRecord | undefined {
    if (this.#records.size >= CELLS_MAX) return undefined;
    const side = randomInt(1, 2 ** 31);
    const record: PeerRecord = {
      cell,
      state,
      side,
      active: 0,
      flows: new Map(),
      armedAt: undefined,
      touchedAt: Date.now(),
    };
    this.#records.set(side, record);
    return record;
  }

  /** The new place is understood from here on; packets to the cell still go to the old one. */
  async #arm(
    record: PeerRecord,
    flows: readonly Flow[],
    wires: ReadonlyMap<string, Endpoint>,
  ): Promise<void> {
    // A label may have belonged to a cell that has ended: its flows must not be in the way.
    if (this.#unanswered.length === 0) await this.#dropEnded(1);
    const armed = new Map<string, PeerFlow>();
    for (const flow of flows) {
      const wire = wires.get(endpointKey(flow.local));
      if (wire === undefined) continue;
      const mine = ownView(flow);
      const key = flowKey(mine);
      for (const other of this.#records.values()) if (other !== record) other.flows.delete(key);
      const current =
        record.flows.get(key)?.entry.wireRemote[record.active] ?? (await this.#slot(mine.remote));
      const next = await this.#slot(wire);
      const wireRemote = record.active === 0 ? ([current, next] as const) : ([next, current] as const);
      const entry = {
        ...mine,
        wireLocal: mine.local,
        wireRemote,
        localSide: 0,
        remoteSide: record.side,
        scope: 0,
      };
      armed.set(key, { missing: 0, entry });
    }
    await this.#datapath.putSide({
      id: record.side,
      state: 'armed',
      active: record.active,
      accept: BOTH_SLOTS,
      ifindex: 0,
    });
    await this.#datapath.putFlows([...armed.values()].map(({ entry }) => entry));
    for (const [key, flow] of armed) record.flows.set(key, flow);
    record.armedAt = Date.now();
  }

  /** Routes are asked for once an address and a while: 10,000 flows have one place to go. */
  async #slot(endpoint: Endpoint): Promise<WireSlot> {
    const known = this.#routes.get(endpoint.address);
    const isAttached = known?.removals === this.#datapath.removals;
    if (known !== undefined && isAttached && Date.now() - known.at < ROUTE_AGE_MS_MAX)
      return { endpoint, ifindex: known.ifindex };
    const { ifindex, device } = await routeTo(endpoint.address);
    await this.#datapath.attachDevice(device);
    this.#routes.set(endpoint.address, { at: Date.now(), removals: this.#datapath.removals, ifindex });
    return { endpoint, ifindex };
  }

  async #sealed(sealed: Sealed, from: Sender): Promise<void> {
    const known = this.#recordsOf(hex(sealed.cell));
    const state = stateFor(
      sealed,
      known.map((record) => record.state),
    );
    const record = known.find((each) => each.state === state);
    if (state === undefined || record === undefined) return this.#socket.drop('session');
    const consumed = consumeFromCell(state, sealed, () => this.#takeKeys(record));
    if (consumed.outcome === 'dropped') {
      record.state = consumed.state;
      this.#log.warn(
        { cell: record.cell, from: from.address, reason: DROP_REASONS[consumed.reason] },
        'sealed message dropped',
      );
      return this.#socket.drop(consumed.reason);
    }
    if (consumed.outcome === 'accepted') {
      await this.#apply(record, consumed.message);
      record.state = consumed.state;
      record.touchedAt = Date.now();
      const kept = this.#records.has(record.side);
      if (kept && consumed.message.type === 'move') this.#saveState(record);
      else if (kept) this.#save(record);
    }
    this.#socket.send(consumed.ack, from.address, from.port);
  }

  #takeKeys({ side }: PeerRecord): KeyPair {
    const keys = this.#nextKeys.get(side) ?? generateKeyPair();
    this.#nextKeys.delete(side);
    return keys;
  }

  async #apply(record: PeerRecord, message: Accepted): Promise<void> {
    switch (message.type) {
      case 'move':
        return this.#move(record, message.labels);
      case 'hold':
        // Suspended for any length of time: what is armed stays so.
        record.armedAt = undefined;
        return this.#datapath.putSide({
          id: record.side,
          state: 'held',
          active: record.active,
          accept: acceptOf(record.active),
          ifindex: 0,
        });
      case 'bye':
        return message.reason === 'aborted' ? this.#disarm(record) : this.#forget(record);
    }
  }

  /** One update flips every flow of the cell. Labels other than the armed ones, which nobody had proved, come first. */
  async #move(record: PeerRecord, labels: readonly Label[]): Promise<void> {
    const next = record.active === 0 ? 1 : 0;
    const started = performance.now();
    await this.#correct(record, labels, next);
    await this.#datapath.putSide({
      id: record.side,
      state: 'moved',
      active: next,
      accept: acceptOf(next),
      ifindex: 0,
    });
    const flip_ms = performance.now() - started;
    record.active = next;
    record.armedAt = undefined;
    const to = [...new Set(labels.map(({ wire }) => wire.address))];
    this.#log.info({ cell: record.cell, flows: record.flows.size, to, flip_ms }, 'cell moved');
  }

  async #correct(record: PeerRecord, labels: readonly Label[], next: 0 | 1): Promise<void> {
    const wires = new Map(labels.map(({ virtual, wire }) => [endpointKey(virtual), wire]));
    const wrong: PeerFlow[] = [];
    for (const flow of record.flows.values()) {
      const wire = wires.get(endpointKey(flow.entry.remote));
      const armed = flow.entry.wireRemote[next]?.endpoint;
      if (wire === undefined || (armed !== undefined && endpointKey(armed) === endpointKey(wire))) continue;
      const slot = await this.#slot(wire);
      const current = flow.entry.wireRemote[record.active];
      flow.entry = { ...flow.entry, wireRemote: next === 0 ? [slot, current] : [current, slot] };
      wrong.push(flow);
    }
    if (wrong.length === 0) return;
    await this.#datapath.putFlows(wrong.map(({ entry }) => entry));
    this.#saveFlows(record);
  }

  /** The move will not happen: the cell goes on where it is. */
  async #disarm(record: PeerRecord): Promise<void> {
    if (record.armedAt === undefined) return;
    record.armedAt = undefined;
    if (record.state.pair.epoch === 0) return this.#dropFlows(record, [...record.flows.values()]);
    for (const flow of record.flows.values())
      flow.entry = withoutSlot(flow.entry, record.active === 0 ? 1 : 0);
    await this.#datapath.putSide({
      id: record.side,
      state: 'moved',
      active: record.active,
      accept: acceptOf(record.active),
      ifindex: 0,
    });
    await this.#datapath.putFlows([...record.flows.values()].map(({ entry }) => entry));
  }

  async #forget(record: PeerRecord): Promise<void> {
    await this.#dropFlows(record, [...record.flows.values()]);
    this.#records.delete(record.side);
    this.#nextKeys.delete(record.side);
    this.#unsave(record);
  }

  async #dropFlows(record: PeerRecord, flows: readonly PeerFlow[]): Promise<void> {
    await this.#datapath.removeFlows(flows.map(({ entry }) => entry));
    for (const { entry } of flows) record.flows.delete(flowKey(entry));
    if (record.flows.size > 0) return;
    await this.#datapath.removeSide(record.side);
    await this.#datapath.removeIfEmpty();
    // The devices may be detached now: whoever arms next attaches them anew.
    this.#routes.clear();
  }

  /** Ended connections, moves that never came, keys that nobody used: nothing of ours outlives its use. */
  async #sweep(): Promise<void> {
    if (this.#records.size === 0) return;
    await this.#dropEnded(SWEEPS_MISSING_MAX);
    for (const record of [...this.#records.values()]) {
      if (record.armedAt !== undefined && Date.now() - record.armedAt > ARMED_MS_MAX)
        await this.#disarm(record);
      if (record.flows.size === 0 && Date.now() - record.touchedAt > IDLE_MS_MAX) await this.#forget(record);
    }
  }

  /** Forgets flows whose socket was missing so many times in a row. */
  async #dropEnded(missingMax: number): Promise<void> {
    const alive = this.#kernel.read();
    for (const record of [...this.#records.values()]) {
      for (const [key, flow] of record.flows) flow.missing = alive.has(key) ? 0 : flow.missing + 1;
      const ended = [...record.flows.values()].filter(({ missing }) => missing >= missingMax);
      if (ended.length === 0) continue;
      await this.#dropFlows(record, ended);
      this.#save(record);
    }
  }

  /** What a restart must not lose: flows and epochs. Keys that nothing was done with are offered anew. */
  #save(record: PeerRecord): void {
    if (record.flows.size === 0 && record.state.pair.epoch === 0) {
      this.#unsave(record);
      return;
    }
    this.#saveFlows(record);
    this.#saveState(record);
  }

  #saveState({ flows: _flows, ...state }: PeerRecord): void {
    this.#states.put(String(state.side), state);
  }

  #saveFlows({ side, flows }: PeerRecord): void {
    this.#flows.put(String(side), { side, flows: [...flows.values()] });
  }

  #unsave({ side }: PeerRecord): void {
    this.#states.remove(String(side));
    this.#flows.remove(String(side));
  }

  #recordsOf(cell: string): PeerRecord[] {
    return [...this.#records.values()].filter((record) => record.cell === cell);
  }
}

/** The same flow as this host's sockets see it. */
function ownView({ protocol, local, remote }: Flow): Flow {
  return { protocol, local: remote, remote: local };
}

function endpointKey({ address, port }: Endpoint): string {
  return `${address} ${port}`;
}

function withoutSlot(entry: FlowEntry, slot: 0 | 1): FlowEntry {
  const [first, second] = entry.wireRemote;
  return { ...entry, wireRemote: slot === 0 ? [undefined, second] : [first, undefined] };
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex');
}
