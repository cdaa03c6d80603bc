/**
 * The peer side of H2O: what this host does for cells of other hosts that its own processes talk to. It arms, flips and
 * forgets flows in the datapath; whether a message is to be believed is decided in wire/h2o-peer.ts.
 */
import {
  type Endpoint,
  endpointKey,
  endpointText,
  type Flow,
  flowKey,
  isLoopback,
  knownFlow,
  type PlacedFlow,
  reversed,
} from '../address.ts';
import { type Labels, PROGRAM_LABELS } from '../cell/labels.ts';
import type { Cell, Registry } from '../cell/registry.ts';
import type { RelayFact, RemoteCellFact } from '../control/protocol.ts';
import type { Datapath } from '../datapath/datapath.ts';
import {
  acceptOf,
  type FlowId,
  LOOPBACK,
  type LocalHalf,
  RELAY,
  type RemoteHalf,
  type WireSlot,
} from '../datapath/model.ts';
import { keyOf } from '../datapath/table.ts';
import { messageOf, OsmosisError } from '../error.ts';
import { isOwnAddress, ownAddressLike, routeTo } from '../host/routes.ts';
import { encodeWelcome, type Hello, type Message, type Sealed } from '../wire/h2o.ts';
import { claimedFlows } from '../wire/h2o-claims.ts';
import type { Ended, FollowBody } from '../wire/h2o-follow.ts';
import { DROP_REASONS, H2O_PORT, isDrop, KEY_BYTES, type Label } from '../wire/h2o-layout.ts';
import {
  type Accepted,
  arm,
  consumeFromCell,
  type FirstPair,
  firstState,
  pairFor,
  stateFor,
} from '../wire/h2o-peer.ts';
import { deriveSession, generateKeyPair, type KeyPair } from '../wire/h2o-session.ts';
import { Follows } from './follows.ts';
import { KernelFlows, type NetworkView } from './kernel-flows.ts';
import { type PeerFlow, type PeerRecord, PeerRecords, placeOf } from './peer-records.ts';
import { isOver } from './relays.ts';
import type { H2oSocket, Sender } from './socket.ts';
import { TokenBucket } from './token-bucket.ts';
import { WaitingMessages } from './waiting.ts';

/** HELLO parts are answered this long after the first of them at the latest: their sender waits for a second. */
const UNANSWERED_MS_MAX = 250;
/** Datagrams that wait for their turn; more are dropped, and their senders send again. */
const QUEUE_MAX = 1_024;
/** HELLO parts a second that are looked at, and the burst: each may cost a look at the kernel's socket table. */
const HELLO_PER_SECOND_MAX = 500;
const HELLO_BURST_MAX = 1_000;
/** An armed move that has not happened after this long will not: longer than every deadline of a migration together. */
const ARMED_MS_MAX = 600_000;
/** Keys of a cell whose last flow has ended are kept this long for its next HELLO. After that both begin anew. */
const IDLE_MS_MAX = 5_000;
/** Those that were only asked for: a migration may take this long to come to its arming, and to be undone. */
const ASKED_MS_MAX = 60_000;
/** A cell that is back where its flows began: late packets of the place that it left are still understood for this long. */
const PLAIN_AFTER_MS = 5_000;
const SWEEP_MS = 2_000;
/** Whether relayed flows have ended is looked at this often: with 10,000 of them a look takes 0.2 s. */
const RELAYS_LOOK_MS = 5_000;
/** A flow is forgotten when its socket is missing in this many sweeps in a row. */
const SWEEPS_MISSING_MAX = 2;
/** A flow that arrives with a cell gets this many more: its process has to be restored first. */
const ARRIVAL_LOOKS_MAX = 120;
const BOTH_SLOTS = acceptOf(0, 1);
/** Asking for a route, and whether its device is attached, starts seven programs. */
const ROUTE_AGE_MS_MAX = 2_000;

/** Why a cell may not claim a flow. */
type Refusal = 'unknown here' | 'of another cell' | 'elsewhere' | 'on the move itself';

/** A HELLO part that is armed and not written down yet. */
type Unanswered = {
  readonly hello: Hello;
  readonly claimable: boolean[];
  readonly record: PeerRecord;
  readonly from: Sender;
  readonly arms: boolean;
  readonly at: number;
};

type Log = { info(fields: object, message: string): void; warn(fields: object, message: string): void };

export class PeerSide {
  readonly #socket: H2oSocket;
  readonly #datapath: Datapath;
  readonly #labels: Labels;
  readonly #log: Log;
  /** Own ends that a cell of this host may claim when it leaves, by keyOf. */
  readonly #offers = new Map<string, LocalHalf>();
  readonly #records: PeerRecords;
  #turn: Promise<void> = Promise.resolve();
  readonly #waiting = new WaitingMessages(QUEUE_MAX);
  readonly #unanswered: Unanswered[] = [];
  #isLeaving: (id: FlowId) => boolean = () => false;
  /** Flows that began while their cell was here already become known to the registry. */
  #adoptNew: () => Promise<void> = async () => {};
  readonly #hellos = new TokenBucket(HELLO_PER_SECOND_MAX, HELLO_BURST_MAX);
  readonly #kernel: KernelFlows;
  readonly #follows: Follows;
  /** Of the HELLO for which new flows were read last. */
  #readFor = '';
  readonly #cells: () => readonly Cell[];
  /** Made while a cell is armed, for the ACK of its MOVE. */
  readonly #nextKeys = new Map<number, KeyPair>();
  readonly #routes = new Map<string, { at: number; removals: number; ifindex: number }>();
  #sweeper: NodeJS.Timeout | undefined;
  #relaysAt = 0;

  constructor(
    socket: H2oSocket,
    datapath: Datapath,
    directory: string,
    registry: Pick<Registry, 'all'>,
    labels: Labels,
    log: Log,
  ) {
    this.#socket = socket;
    this.#datapath = datapath;
    this.#records = new PeerRecords(directory);
    this.#cells = () => registry.all();
    this.#kernel = new KernelFlows(() => viewsOf(registry.all()));
    this.#labels = labels;
    this.#log = log;
    const slotOf = (endpoint: Label['wire']) => this.#slot(endpoint);
    this.#follows = new Follows({ datapath, labels, records: this.#records, slotOf, log });
  }

  /**
   * `isLeaving`: whether a flow of this host belongs to a cell that is being moved away just now. `adoptNew`: enters flows
   * that cells have had since they came into the registry.
   */
  start(isLeaving: (id: FlowId) => boolean, adoptNew: () => Promise<void> = async () => {}): void {
    this.#isLeaving = isLeaving;
    this.#adoptNew = adoptNew;
    this.#records.load();
    this.#follows.load();
    const own = this.#records
      .all()
      .flatMap(({ flows }) => [...flows.values()].flatMap((flow) => flow.own ?? []));
    this.#labels.take(
      own.filter(needsLabel).map(({ protocol, wireLocal }) => ({ protocol, port: wireLocal.port })),
    );
    this.#socket.listen((message, from) => this.#enqueue(message, from));
    this.#sweeper = setInterval(() => void this.#inTurn(() => this.#sweep()), SWEEP_MS);
    this.#sweeper.unref();
  }

  async stop(): Promise<void> {
    clearInterval(this.#sweeper);
    await this.#turn;
  }

  /** One row a cell, for `osmosis ps` and `osmosis datapath`. */
  list(): RemoteCellFact[] {
    return this.#records.all().map((record) => {
      const { cell, state, flows, armedAt, plainAt } = record;
      const epoch = state?.pair.epoch ?? 0;
      const away = armedAt !== undefined ? 'armed' : epoch > 0 || cell === '' ? 'moved' : 'home';
      return {
        cell,
        epoch,
        flows: flows.size,
        state: plainAt === undefined ? away : 'home',
        wire: [...new Set([...flows.values()].map((flow) => placeOf(flow, record)?.endpoint.address ?? ''))],
        relays: relaysOf(record),
        ...(record.follow && { follow: { ...record.follow, labels: [...record.follow.labels] } }),
      };
    });
  }

  /** Where the other end of a flow of this host is on the wire now; undefined where nobody has said that it has moved. */
  placeOf(id: FlowId): Endpoint | undefined {
    const owner = this.#records.owner(id);
    const flow = owner?.flows.get(keyOf(id));
    return owner && flow && placeOf(flow, owner)?.endpoint;
  }

  /**
   * Ends what this host relays, of the cell with this id or of all, and answers with what that was. Either end's next
   * packet finds nobody here, and this host's kernel answers it with a reset.
   */
  async endRelays(cell: string | undefined, dryRun: boolean): Promise<RelayFact[]> {
    const ended: RelayFact[] = [];
    await this.#exclusive(async () => {
      const records = cell === undefined ? this.#records.all() : this.#records.of(cell);
      for (const record of records) {
        const relayed = relayedOf(record);
        if (relayed.length === 0) continue;
        ended.push(...relaysOf(record).map((relay) => ({ cell: record.cell, ...relay })));
        if (!dryRun) await this.#end(record, relayed);
      }
    });
    return ended;
  }

  async #end(record: PeerRecord, flows: readonly PeerFlow[]): Promise<void> {
    await this.#dropFlows(record, flows);
    this.#records.save(record);
  }

  /** Whether a cell at the other end of one of these flows has announced a move that has not happened yet. */
  async isAwaitingMove(ids: readonly FlowId[]): Promise<boolean> {
    let awaiting = false;
    await this.#exclusive(async () => {
      awaiting = ids.some((id) => this.#records.owner(id)?.armedAt !== undefined);
    });
    return awaiting;
  }

  /**
   * Flows that arrive here with a cell, and whose other ends have moved: from now on this host follows those. Their cells
   * come and claim them when they move again.
   */
  async place(scope: number, flows: readonly PlacedFlow[]): Promise<void> {
    const away = flows.filter(({ at, remote }) => endpointText(at) !== endpointText(remote));
    const byHost = Map.groupBy(away, ({ at }) => at.address);
    if (away.length === 0) return;
    await this.#exclusive(async () => {
      // A label may have belonged to a cell that has ended: its flows must not be in the way.
      await this.#dropEnded(1);
      for (const there of byHost.values()) await this.#placeOn(scope, there);
    });
  }

  async #placeOn(scope: number, flows: readonly PlacedFlow[]): Promise<void> {
    const record = this.#records.create('', undefined);
    if (record === undefined)
      throw new OsmosisError('DATAPATH', 'this host follows as many cells as it can; choose another host');
    await this.#datapath.putSide({
      id: record.side,
      state: 'moved',
      active: 0,
      accept: acceptOf(0),
      ifindex: 0,
    });
    for (const { protocol, local, remote, at } of flows) {
      const wireRemote = [await this.#slot(at), undefined] as const;
      this.#records.take(record, {
        id: { protocol, local, remote, scope },
        wireRemote,
        missing: -ARRIVAL_LOOKS_MAX,
      });
    }
    await this.#put(record, [...record.flows.values()]);
    this.#records.save(record);
  }

  /**
   * Flows of a cell of this host whose other ends will not go with it: they are on this host too, or, to be relayed, on a
   * host without an agent. Answers with the flows as the cell has to claim them from this host then. What is not claimed
   * is to be withdrawn.
   */
  async offer(flows: readonly PlacedFlow[], relay: boolean): Promise<PlacedFlow[]> {
    const scope = relay ? RELAY : 0;
    const ids = flows.map((flow) => ({ ...otherView(flow), scope }));
    const known = ids.map((id) => this.#records.owner(id)?.flows.get(keyOf(id))?.own);
    const labelled = ids.filter((id, index) => known[index] === undefined && needsLabel(id));
    const ports = labelled.length === 0 ? [] : this.#labels.draw(labelled.map(({ protocol }) => protocol));
    const port = new Map(labelled.map((id, index) => [keyOf(id), ports[index] ?? 0]));
    const offered: PlacedFlow[] = [];
    for (const [index, flow] of flows.entries()) {
      const id = { ...otherView(flow), scope };
      const label = port.get(keyOf(id));
      const wireLocal =
        label === undefined ? id.local : { address: ownAddressLike(id.remote.address), port: label };
      const via = relay ? (await this.#slot(id.local)).ifindex : LOOPBACK;
      const half = known[index] ?? { ...id, wireLocal, localSide: 0, via, path: LOOPBACK };
      this.#offers.set(keyOf(id), half);
      const placed = { ...flow, at: half.wireLocal };
      offered.push(relay ? { ...placed, relayed: true } : placed);
    }
    return offered;
  }

  /** The migration has ended, one way or the other: labels of flows that nobody has claimed are free again. */
  async withdraw(flows: readonly PlacedFlow[]): Promise<void> {
    await this.#exclusive(async () => {
      for (const flow of flows) {
        for (const scope of [0, RELAY]) {
          const key = keyOf({ ...otherView(flow), scope });
          const half = this.#offers.get(key);
          this.#offers.delete(key);
          if (half !== undefined && this.#records.owner(half)?.flows.get(key)?.own === undefined)
            this.#release([half]);
        }
      }
    });
  }

  /** The cell is frozen here: what this host's own processes, and those it relays for, say goes on to where it will be. */
  async engage(cell: string): Promise<void> {
    for (const { side: id, active, armedAt } of this.#records.of(cell)) {
      const next = active === 0 ? 1 : 0;
      if (armedAt !== undefined)
        await this.#datapath.putSide({ id, state: 'moved', active: next, accept: BOTH_SLOTS, ifindex: 0 });
    }
  }

  /** The process runs here: flows whose sockets are missing from now on have ended. */
  async arrived(ids: readonly FlowId[]): Promise<void> {
    await this.#exclusive(async () => {
      for (const id of ids) {
        const flow = this.#records.owner(id)?.flows.get(keyOf(id));
        if (flow !== undefined) flow.missing = 0;
      }
    });
  }

  /**
   * The flows of a cell that has come home: those that need an entry because their other ends are elsewhere, though they
   * have an address or a label of this host's, are looked after from here on. Answers with the others.
   */
  async keep<Half extends LocalHalf>(halves: readonly Half[]): Promise<Half[]> {
    const kept: LocalHalf[] = [];
    const changed = new Set<PeerRecord>();
    await this.#exclusive(async () => {
      for (const half of halves.filter(({ via }) => via !== 0)) {
        const { protocol, local, remote, scope, wireLocal, via, path } = half;
        const record = this.#records.owner(half);
        const flow = record?.flows.get(keyOf(half));
        if (record === undefined || flow === undefined) continue;
        flow.own = { protocol, local, remote, scope, wireLocal, localSide: 0, via, path };
        kept.push(flow.own);
        changed.add(record);
      }
      for (const record of changed) this.#records.saveFlows(record);
      await this.#datapath.putLocals(kept);
    });
    const keys = new Set(kept.map((half) => keyOf(half)));
    return halves.filter((half) => !keys.has(keyOf(half)));
  }

  /** Whether that place is a label of this host for an end that is here, and so needs none for a cell that comes home. */
  isOwnLabel(flow: PlacedFlow): boolean {
    return [0, RELAY].some((scope) => {
      const id = { ...otherView(flow), scope };
      const own = this.#records.owner(id)?.flows.get(keyOf(id))?.own;
      return own !== undefined && endpointText(own.wireLocal) === endpointText(flow.at);
    });
  }

  #release(halves: readonly LocalHalf[]): void {
    this.#labels.release(
      halves.filter(needsLabel).map(({ protocol, wireLocal }) => ({ protocol, port: wireLocal.port })),
    );
  }

  /** The cell did not come after all: its flows are nobody's here. */
  async unplace(ids: readonly FlowId[]): Promise<void> {
    await this.#exclusive(async () => {
      const byRecord = Map.groupBy(ids, (id) => this.#records.owner(id));
      for (const [record, its] of byRecord) {
        if (record === undefined) continue;
        await this.#dropFlows(
          record,
          its.flatMap((id) => record.flows.get(keyOf(id)) ?? []),
        );
        if (record.flows.size === 0) await this.#forget(record);
        else this.#records.save(record);
      }
    });
  }

  /**
   * This host lets a cell go that began here: new flows to its endpoints follow it at once. `pair`: the keys that were
   * exchanged for that, unless the cell's host has others by the flows that it has with this one.
   */
  async beginFollow(
    cell: string,
    follow: Omit<FollowBody, 'ended'>,
    pair: FirstPair | undefined,
  ): Promise<void> {
    await this.#exclusive(async () => {
      const state = pair && firstState(cell, pair);
      const record = state === undefined ? this.#records.of(cell)[0] : this.#records.create(cell, state);
      if (record === undefined) return;
      Follows.remember(
        record,
        follow.labels.map(({ protocol, virtual }) => ({
          protocol,
          local: virtual,
          remote: virtual,
          scope: 0,
        })),
      );
      await this.#follows.set(record, follow);
      this.#records.save(record);
    });
  }

  #enqueue(message: Message, from: Sender): void {
    const forUs =
      message.type === 'hello' ||
      message.type === 'move' ||
      message.type === 'hold' ||
      message.type === 'bye' ||
      message.type === 'follow';
    if (forUs && this.#waiting.add(message, from)) void this.#inTurn(() => this.#serveNext());
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
    const answered = this.#unanswered.splice(0).filter(({ record }) => this.#records.has(record));
    for (const record of new Set(answered.map(({ record }) => record))) this.#records.save(record);
    for (const { hello, claimable, record, from } of answered) {
      if (record.state !== undefined) this.#welcome(hello, claimable, record.state.pair.peerPublicKey, from);
    }
    for (const { record, arms } of answered) if (arms) this.#makeReady(record);
  }

  /** One after the other: two messages about one cell must not meet half done. */
  async #inTurn(step: () => Promise<void>): Promise<void> {
    await this.#exclusive(step).catch((error: unknown) => {
      this.#log.warn({ error: messageOf(error) }, 'a datagram could not be served');
    });
  }

  #exclusive(step: () => Promise<void>): Promise<void> {
    const done = this.#turn.then(step);
    this.#turn = done.catch(() => undefined);
    return done;
  }

  async #hello(hello: Hello, from: Sender): Promise<void> {
    // Port 18018 is not privileged everywhere, but while an agent holds it nobody else of its host can send from it.
    if (from.port !== H2O_PORT || !this.#hellos.take()) return;
    const cell = hex(hello.cell);
    const flows = claimedFlows(hello.claims);
    await this.#readCreated(hello, flows);
    const known = this.#records.of(cell);
    const at = performance.now();
    const refused: Partial<Record<Refusal, number>> = {};
    const names = this.#names();
    const ids = flows.map((flow) => {
      const id = this.#claimable(flow, cell, from.address, names);
      if (typeof id !== 'string') return id;
      refused[id] = (refused[id] ?? 0) + 1;
      return undefined;
    });
    if (Object.keys(refused).length > 0)
      this.#log.info(
        { cell, from: from.address, flows: flows.length, refused },
        'flows were claimed in vain',
      );
    const state = ids.some((id) => id !== undefined)
      ? pairFor(
          hello,
          known.flatMap((record) => record.state ?? []),
        )
      : undefined;
    if (state === undefined)
      return this.#welcome(
        hello,
        flows.map(() => false),
        new Uint8Array(KEY_BYTES),
        from,
      );
    const record = known.find((each) => each.state === state) ?? this.#records.create(cell, state);
    if (record === undefined) return;
    record.state = arm(state, hello);
    record.touchedAt = Date.now();
    const wires = new Map(
      hello.claims.flatMap(({ protocol, arm: wire, local }) =>
        wire === undefined ? [] : [[endpointKey(protocol, local), wire] as const],
      ),
    );
    if (wires.size > 0)
      await this.#arm(
        record,
        ids.flatMap((id) => id ?? []),
        wires,
      );
    const claimable = ids.map((id) => id !== undefined);
    this.#unanswered.push({ hello, claimable, record, from, arms: wires.size > 0, at });
  }

  /**
   * Flows that were created by rules are as good as those that a cell came with: of those that followed it here, and of this
   * host's own cells, whose other ends may have another name for them. Read once for all parts.
   */
  async #readCreated({ cell, transaction }: Hello, claimed: readonly Flow[]): Promise<void> {
    const follows = this.#records.of(hex(cell)).some(({ follow }) => follow !== undefined);
    const isOfCell = this.#datapath.isRuled && claimed.some((flow) => !this.#isOfHost(flow));
    if ((!follows && !isOfCell) || this.#readFor === hex(transaction)) return;
    this.#readFor = hex(transaction);
    await this.#follows.take();
    await this.#adoptNew();
  }

  /** Whether it has a socket outside of cells. `flow`: the cell's view. */
  #isOfHost(flow: Flow): boolean {
    return this.#kernel.scopesOf(reversed(flow)).includes(0);
  }

  /** Flows of this host's cells that their other ends have another name for, by that name (`flowKey`, as seen from here). */
  #names(): Map<string, FlowId> {
    const named = this.#cells().flatMap(({ known = [], link }) =>
      known.map((flow): [string, FlowId] => {
        const { protocol, local, remote } = flow;
        return [flowKey(knownFlow(flow)), { protocol, local, remote, scope: link?.ifindex ?? 0 }];
      }),
    );
    return new Map(named);
  }

  /** An armed cell is about to move: what its MOVE will cost in public-key operations is spent now, off the gap's path. */
  #makeReady(record: PeerRecord): void {
    const { state } = record;
    this.#nextKeys.set(record.side, this.#nextKeys.get(record.side) ?? generateKeyPair());
    if (state === undefined || state.session !== undefined) return;
    const { pair, secretKey } = state;
    const session = deriveSession({ ...pair, secretKey, role: 'peer' });
    if (!isDrop(session)) record.state = { ...state, session };
  }

  #welcome(hello: Hello, claimable: boolean[], publicKey: Uint8Array, { address, port }: Sender): void {
    const { cell, transaction, epoch, part, parts } = hello;
    this.#socket.send(
      encodeWelcome({ type: 'welcome', cell, transaction, epoch, publicKey, part, parts, claimable }),
      address,
      port,
    );
  }

  /**
   * The flow as this host has it, where the cell may claim it: it exists here, its remote end is now where the HELLO came
   * from, no other cell has moved with it, and its local end is not on the move itself.
   * @param claimed the cell's view: its remote endpoint is ours
   */
  #claimable(
    claimed: Flow,
    cell: string,
    from: string,
    names: ReadonlyMap<string, FlowId>,
  ): FlowId | Refusal {
    const { local } = claimed;
    let refusal: Refusal = 'unknown here';
    const mine = reversed(claimed);
    const relayed = { ...mine, scope: RELAY };
    const isRelayed = this.#offers.has(keyOf(relayed)) || this.#records.owner(relayed) !== undefined;
    const ids = [
      names.get(flowKey(mine)),
      ...this.#kernel.scopesOf(mine).map((scope) => ({ ...mine, scope })),
      isRelayed ? relayed : undefined,
      this.#follows.relayedAs(mine),
    ];
    for (const id of ids) {
      if (id === undefined) continue;
      const owner = this.#records.owner(id);
      const anothers = owner !== undefined && owner.cell !== cell && (owner.state?.pair.epoch ?? 0) > 0;
      const flow = owner?.flows.get(keyOf(id));
      const place = owner === undefined || flow === undefined ? undefined : placeOf(flow, owner)?.endpoint;
      // An announced flow that has not moved yet is owned as well, and is still where it began.
      const began = place === undefined || endpointText(place) === endpointText(local);
      const isThere = began ? isSameHost(local.address, from) : place.address === from;
      if (!anothers && isThere && !this.#isLeaving(id)) return id;
      refusal = anothers ? 'of another cell' : isThere ? 'on the move itself' : 'elsewhere';
    }
    return refusal;
  }

  /** The new place is understood from here on; packets to the cell still go to the old one. */
  async #arm(
    record: PeerRecord,
    ids: readonly FlowId[],
    wires: ReadonlyMap<string, Label['wire']>,
  ): Promise<void> {
    // A label may have belonged to a cell that has ended: its flows must not be in the way.
    if (this.#unanswered.length === 0) await this.#dropEnded(1);
    const armed: PeerFlow[] = [];
    for (const id of ids) {
      const wire = wires.get(endpointKey(id.protocol, id.remote));
      if (wire === undefined) continue;
      const owner = this.#records.owner(id);
      const known = owner?.flows.get(keyOf(id));
      const current = (owner && known && placeOf(known, owner)) ?? (await this.#slot(id.remote));
      const next = await this.#slot(wire);
      const wireRemote = record.active === 0 ? ([current, next] as const) : ([next, current] as const);
      armed.push({ id, wireRemote, missing: 0, own: this.#offers.get(keyOf(id)) ?? known?.own });
    }
    record.plainAt = undefined;
    await this.#datapath.putSide({
      id: record.side,
      state: 'armed',
      active: record.active,
      accept: BOTH_SLOTS,
      ifindex: 0,
    });
    for (const flow of armed) this.#records.take(record, flow);
    Follows.remember(record, ids);
    await this.#datapath.putLocals(armed.flatMap(({ own }) => own ?? []));
    await this.#put(record, armed);
    record.armedAt = Date.now();
  }

  async #put({ side }: PeerRecord, flows: readonly PeerFlow[]): Promise<void> {
    const half = ({ id, wireRemote }: PeerFlow): RemoteHalf => ({ ...id, wireRemote, remoteSide: side });
    await this.#datapath.putRemotes(flows.map(half));
  }

  /** Routes are asked for once an address and a while: 10,000 flows have one place to go. */
  async #slot(endpoint: Label['wire']): Promise<WireSlot> {
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
    const known = this.#records.of(hex(sealed.cell));
    const state = stateFor(
      sealed,
      known.flatMap((record) => record.state ?? []),
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
      const kept = this.#records.has(record);
      const isState = consumed.message.type === 'move' || consumed.message.type === 'follow';
      if (kept && isState) this.#records.saveState(record);
      else if (kept) this.#records.save(record);
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
        return this.#switch(record, 'held');
      case 'follow':
        await this.#follows.set(record, message);
        await this.#dropOver(record, message.ended);
        return this.#tidy(record);
      case 'bye':
        return message.reason === 'aborted' ? this.#disarm(record) : this.#forget(record);
    }
  }

  /** Packets to the cell go to its active slot, and come from there only. */
  async #switch({ side: id, active }: PeerRecord, state: 'moved' | 'held'): Promise<void> {
    await this.#datapath.putSide({ id, state, active, accept: acceptOf(active), ifindex: 0 });
  }

  /** One update flips every flow of the cell. Labels other than the armed ones, which nobody had proved, come first. */
  async #move(record: PeerRecord, labels: readonly Label[]): Promise<void> {
    const next = record.active === 0 ? 1 : 0;
    const started = performance.now();
    await this.#correct(record, labels, next);
    await this.#switch({ ...record, active: next }, 'moved');
    const flip_ms = performance.now() - started;
    record.active = next;
    record.armedAt = undefined;
    await this.#follows.moved(record, labels);
    record.plainAt = isPlain(record) ? Date.now() : undefined;
    const to = [...new Set(labels.map(({ wire }) => wire.address))];
    this.#log.info({ cell: record.cell, flows: record.flows.size, to, flip_ms }, 'cell moved');
  }

  async #correct(record: PeerRecord, labels: readonly Label[], next: 0 | 1): Promise<void> {
    const wires = new Map(
      labels.map(({ protocol, virtual, wire }) => [endpointKey(protocol, virtual), wire]),
    );
    const wrong: PeerFlow[] = [];
    for (const flow of record.flows.values()) {
      const wire = wires.get(endpointKey(flow.id.protocol, flow.id.remote));
      const armed = flow.wireRemote[next]?.endpoint;
      if (wire === undefined || (armed !== undefined && endpointText(armed) === endpointText(wire))) continue;
      const slot = await this.#slot(wire);
      const current = flow.wireRemote[record.active];
      flow.wireRemote = next === 0 ? [slot, current] : [current, slot];
      wrong.push(flow);
    }
    if (wrong.length === 0) return;
    await this.#put(record, wrong);
    this.#records.saveFlows(record);
  }

  /** The move will not happen: the cell goes on where it is, and flows that are where they began need no entries. */
  async #disarm(record: PeerRecord): Promise<void> {
    if (record.armedAt === undefined) return;
    record.armedAt = undefined;
    const flows = [...record.flows.values()];
    await this.#dropFlows(
      record,
      flows.filter((flow) => !isAway(flow, record)),
    );
    if (record.flows.size === 0) return;
    for (const flow of record.flows.values()) flow.wireRemote = onlySlot(flow.wireRemote, record.active);
    await this.#switch(record, 'moved');
    await this.#put(record, [...record.flows.values()]);
  }

  async #forget(record: PeerRecord): Promise<void> {
    await this.#follows.end(record);
    await this.#dropFlows(record, [...record.flows.values()]);
    this.#records.forget(record);
    this.#nextKeys.delete(record.side);
  }

  async #dropFlows(record: PeerRecord, flows: readonly PeerFlow[]): Promise<void> {
    await this.#datapath.removeRemotes(flows.map(({ id }) => id));
    const own = flows.flatMap((flow) => flow.own ?? []);
    await this.#datapath.removeLocals(own);
    // What is offered again, to a migration that tries once more, keeps its label.
    this.#release(own.filter((half) => !this.#offers.has(keyOf(half))));
    this.#records.drop(record, flows);
    await this.#tidy(record);
  }

  async #dropOver(record: PeerRecord, ended: readonly Ended[]): Promise<void> {
    const over = await this.#follows.over(record, ended);
    if (over.length === 0) return;
    await this.#dropFlows(record, over);
    // Their labels, and room for others.
    await this.#datapath.removeCreated(() => false);
    this.#records.saveFlows(record);
  }

  /** A side serves its flows, and rules. */
  async #tidy(record: PeerRecord): Promise<void> {
    if (record.flows.size === 0 && record.follow === undefined) await this.#removeSide(record);
  }

  async #removeSide({ side }: PeerRecord): Promise<void> {
    await this.#datapath.removeSide(side);
    await this.#datapath.removeIfEmpty();
    // The devices may be detached now: whoever arms next attaches them anew.
    this.#routes.clear();
  }

  /** Ended connections, moves that never came, keys that nobody used: nothing of ours outlives its use. */
  async #sweep(): Promise<void> {
    const records = this.#records.all();
    if (records.length === 0) return;
    const now = Date.now();
    await this.#follows.sweep();
    await this.#dropEnded(SWEEPS_MISSING_MAX);
    if (now - this.#relaysAt > RELAYS_LOOK_MS) await this.#dropEndedRelays(records);
    for (const record of records) {
      if (record.armedAt !== undefined && now - record.armedAt > ARMED_MS_MAX) await this.#disarm(record);
      if (record.plainAt !== undefined && now - record.plainAt > PLAIN_AFTER_MS) await this.#plain(record);
      const idleMsMax = record.state?.pair.epoch === 0 ? ASKED_MS_MAX : IDLE_MS_MAX;
      const isIdle = record.flows.size === 0 && record.armedAt === undefined && record.follow === undefined;
      if (isIdle && now - record.touchedAt > idleMsMax) await this.#forget(record);
    }
  }

  /** The flows are where they began, and nothing of another place is on its way any more: entries are of no use. */
  async #plain(record: PeerRecord): Promise<void> {
    record.plainAt = undefined;
    await this.#dropFlows(record, [...record.flows.values()]);
    this.#records.save(record);
  }

  async #dropEndedRelays(records: readonly PeerRecord[]): Promise<void> {
    this.#relaysAt = Date.now();
    if (records.every((record) => relayedOf(record).length === 0)) return;
    const states = await this.#datapath.relays();
    const nowNs = process.hrtime.bigint();
    const over = states.filter((state) => isOver(state, nowNs)).map(({ id }) => id);
    for (const [record, ids] of Map.groupBy(over, (id) => this.#records.owner(id))) {
      if (record === undefined) continue;
      await this.#end(
        record,
        ids.flatMap((id) => record.flows.get(keyOf(id)) ?? []),
      );
    }
  }

  /** The sockets of a relayed flow are elsewhere: dropEndedRelays sees to those. */
  #isAlive(id: FlowId): boolean {
    return id.scope === RELAY || this.#kernel.scopesOf(id).includes(id.scope);
  }

  /** Forgets flows whose socket was missing so many times in a row. */
  async #dropEnded(missingMax: number): Promise<void> {
    this.#kernel.read();
    for (const record of this.#records.all()) {
      for (const flow of record.flows.values()) flow.missing = this.#isAlive(flow.id) ? 0 : flow.missing + 1;
      const ended = [...record.flows.values()].filter(({ missing }) => missing >= missingMax);
      if (ended.length === 0) continue;
      await this.#dropFlows(record, ended);
      this.#records.save(record);
    }
  }
}

/** This host's own network namespace, and those of its cells. */
function viewsOf(cells: readonly Cell[]): NetworkView[] {
  const inside = cells.flatMap(({ init, link }) =>
    init === undefined || link === undefined ? [] : [{ pid: init.pid, scope: link.ifindex }],
  );
  return [{ pid: 'self', scope: 0 }, ...inside];
}

/** What this host carries on: the cell is elsewhere, or was and has only just come back. */
function relayedOf(record: PeerRecord): PeerFlow[] {
  return [...record.flows.values()].filter((flow) => flow.id.scope === RELAY && isAway(flow, record));
}

function relaysOf(record: PeerRecord): { peer: string; flows: number }[] {
  const byPeer = Map.groupBy(relayedOf(record), ({ id }) => id.local.address);
  return [...byPeer].map(([peer, flows]) => ({ peer, flows: flows.length }));
}

/** An end that its own endpoint can't stand for on the wire. */
function needsLabel({ scope, local }: FlowId): boolean {
  return scope === RELAY || isLoopback(local.address);
}

/** Not where the flow began. */
function isAway(flow: PeerFlow, record: PeerRecord): boolean {
  const place = placeOf(flow, record)?.endpoint;
  if (isRenamed(flow)) return true;
  return place !== undefined && endpointText(place) !== endpointText(flow.id.remote);
}

/** The cell knows it by a label of this host's programs, wherever the cell is. */
function isRenamed({ id, own }: PeerFlow): boolean {
  return id.scope === RELAY && own !== undefined && own.wireLocal.port >= PROGRAM_LABELS.first;
}

function isPlain(record: PeerRecord): boolean {
  return [...record.flows.values()].every((flow) => !isAway(flow, record));
}

function onlySlot([first, second]: RemoteHalf['wireRemote'], slot: 0 | 1): RemoteHalf['wireRemote'] {
  return slot === 0 ? [first, undefined] : [undefined, second];
}

/** A loopback address stands for whatever address the host says it from. */
function isSameHost(address: string, from: string): boolean {
  return address === from || (isLoopback(address) && isOwnAddress(from));
}

/** The flow as the host at its other end names it. */
function otherView(flow: Flow & Pick<PlacedFlow, 'known'>): Flow {
  return reversed(knownFlow(flow));
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex');
}
