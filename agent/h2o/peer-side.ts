/**
 * The peer side of H2O: what this host does for cells of other hosts that its own processes talk to. It arms, flips and
 * forgets flows in the datapath; whether a message is to be believed is decided in wire/h2o-peer.ts.
 */
import { setImmediate } from 'node:timers/promises';
import type { Endpoint, PlacedFlow } from '../address.ts';
import type { Labels } from '../cell/labels.ts';
import type { Cell, Registry } from '../cell/registry.ts';
import type { HeldFact, RelayFact, RemoteCellFact, RemoteHeld } from '../control/protocol.ts';
import type { AnnouncedFact } from '../control/trust-protocol.ts';
import type { Datapath } from '../datapath/datapath.ts';
import type { FlowId } from '../datapath/model.ts';
import { keyOf } from '../datapath/table.ts';
import { messageOf } from '../error.ts';
import { isOwnAddress } from '../host/routes.ts';
import type { Trust } from '../trust/trust.ts';
import { Turns } from '../turns.ts';
import type { Hello, Message, Sealed } from '../wire/h2o.ts';
import type { FollowBody } from '../wire/h2o-follow.ts';
import { DROP_REASONS, type Label } from '../wire/h2o-layout.ts';
import { type Accepted, consumeFromCell, type FirstPair, firstState, stateFor } from '../wire/h2o-peer.ts';
import { Admission } from './admission.ts';
import { sayDistrust } from './distrust.ts';
import { endHeldSockets } from './end-held-sockets.ts';
import { Follows } from './follows.ts';
import { type Handed, HandedOver } from './handed-over.ts';
import { HeldDatagrams } from './held-datagrams.ts';
import { HeldEnds, handedTo } from './held-ends.ts';
import { HeldSockets } from './held-sockets.ts';
import { Hellos } from './hellos.ts';
import { KernelFlows, type NetworkView } from './kernel-flows.ts';
import { OwnEnds } from './own-ends.ts';
import { relayedOf, relaysOf } from './peer-flows.ts';
import { type Announcer, type PeerRecord, PeerRecords, placeOf } from './peer-records.ts';
import { ReadyKeys } from './ready-keys.ts';
import { remoteCellFact } from './remote-cell-fact.ts';
import { RemoteCells } from './remote-cells.ts';
import type { H2oSocket, Sender } from './socket.ts';
import { Sweeper } from './sweeper.ts';
import { TokenBucket } from './token-bucket.ts';
import { WaitingMessages } from './waiting.ts';
import { Wakes } from './wakes.ts';
import { WireSlots } from './wire-slots.ts';

/** Datagrams that wait for their turn, and those of one source; more are dropped, and their senders send again. */
const QUEUE_MAX = 1_024;
const QUEUE_PER_SOURCE_MAX = 256;
/** Messages are served for this long before the socket is looked at again: what it can't hold is lost. */
const SERVING_MS_MAX = 5;
/** Refusals a second that are written to the log, and the burst: whoever asks in vain must not fill a disk. */
const REFUSALS_LOGGED_PER_SECOND_MAX = 2;
const REFUSALS_LOGGED_BURST_MAX = 50;
const SWEEP_MS = 2_000;

type Log = { info(fields: object, message: string): void; warn(fields: object, message: string): void };

export class PeerSide {
  readonly #socket: H2oSocket;
  readonly #trust: Trust;
  readonly #datapath: Pick<Datapath, 'expect'>;
  readonly #log: Log;
  readonly #records: PeerRecords;
  readonly #turns = new Turns();
  readonly #waiting = new WaitingMessages(QUEUE_MAX, QUEUE_PER_SOURCE_MAX);
  readonly #refusals = new TokenBucket(REFUSALS_LOGGED_PER_SECOND_MAX, REFUSALS_LOGGED_BURST_MAX);
  readonly #follows: Follows;
  readonly #admission: Admission;
  readonly #cells: RemoteCells;
  readonly #sweeper: Sweeper;
  readonly #heldSockets: HeldSockets;
  readonly #views: () => readonly NetworkView[];
  readonly #wakes: Wakes;
  readonly #heldDatagrams: HeldDatagrams;
  readonly #readyKeys = new ReadyKeys();
  readonly #hellos: Hellos;
  #sweeping: NodeJS.Timeout | undefined;
  #servingSince = 0;
  readonly #heldEnds: HeldEnds;
  readonly #handedOver: HandedOver;
  /** Ends of this host for cells of its own that leave it. */
  readonly ownEnds: OwnEnds;

  constructor(
    socket: H2oSocket,
    trust: Trust,
    datapath: Datapath,
    directory: string,
    registry: Pick<Registry, 'all'>,
    labels: Labels,
    log: Log,
  ) {
    this.#socket = socket;
    this.#trust = trust;
    this.#datapath = datapath;
    this.#log = log;
    const turns = this.#turns;
    const records = new PeerRecords(directory);
    const slots = new WireSlots(datapath);
    const views = () => viewsOf(registry.all());
    const kernel = new KernelFlows(views);
    const heldSockets = new HeldSockets({ datapath, records, views, log });
    const follows = new Follows({ datapath, labels, records, slots, log });
    const ownEnds = new OwnEnds({ datapath, labels, records, slots, turns });
    const dropEnded = () => this.#sweeper.dropEnded(1);
    this.#records = records;
    this.#views = views;
    this.#follows = follows;
    this.ownEnds = ownEnds;
    this.#admission = new Admission({
      datapath,
      records,
      kernel,
      follows,
      ownEnds,
      cells: () => registry.all(),
    });
    this.#heldSockets = heldSockets;
    this.#heldEnds = new HeldEnds({ datapath, records, slots });
    this.#handedOver = new HandedOver(socket, `${directory}/handed-over`);
    this.#wakes = new Wakes({ datapath, views, log });
    const heldDatagrams = new HeldDatagrams({ datapath, records, log });
    this.#heldDatagrams = heldDatagrams;
    this.#cells = new RemoteCells({
      datapath,
      records,
      follows,
      ownEnds,
      slots,
      turns,
      heldSockets,
      wakes: this.#wakes,
      heldDatagrams,
      dropEnded,
      log,
    });
    const cells = this.#cells;
    const sweeper = new Sweeper({ datapath, records, kernel, follows, cells, heldSockets });
    this.#sweeper = sweeper;
    const parts = { admission: this.#admission, cells, sweeper, readyKeys: this.#readyKeys };
    this.#hellos = new Hellos({ socket, trust, records, ...parts, refusals: this.#refusals, log });
  }

  /**
   * `isLeaving`: whether a flow of this host belongs to a cell that is being moved away just now. `adoptNew`: enters flows
   * that cells have had since they came into the registry.
   */
  start(isLeaving: (id: FlowId) => boolean, adoptNew: () => Promise<void> = async () => {}): void {
    this.#admission.start(isLeaving, adoptNew);
    this.#records.load();
    this.#heldDatagrams.resume();
    this.#follows.load();
    this.ownEnds.load();
    this.#handedOver.load();
    this.#socket.listen((message, from) => this.#enqueue(message, from));
    this.#sweeping = setInterval(() => void this.#inTurn(() => this.#sweep()), SWEEP_MS);
    this.#sweeping.unref();
    void this.#inTurn(() => this.#expectMoves());
  }

  async #sweep(): Promise<void> {
    await this.#sweeper.sweep();
    this.#handedOver.sweep();
    await this.#expectMoves();
  }

  /** The MOVE of a cell that announces nothing enters its flows: that must not have to load anything first. */
  async #expectMoves(): Promise<void> {
    await this.#datapath.expect(this.#records.all().some(({ claims }) => claims.size > 0));
  }

  async stop(): Promise<void> {
    clearInterval(this.#sweeping);
    this.#wakes.stop();
    await this.#turns.idle();
    await this.#heldSockets.idle();
    await this.#heldDatagrams.idle();
  }

  /** One row a cell, for `osmosis ps` and `osmosis datapath`. */
  list(): RemoteCellFact[] {
    return this.#records.all().map(remoteCellFact);
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
    await this.#turns.run(async () => {
      const records = cell === undefined ? this.#records.all() : this.#records.of(cell);
      for (const record of records) {
        const relayed = relayedOf(record);
        if (relayed.length === 0) continue;
        ended.push(...relaysOf(record).map((relay) => ({ cell: record.cell, ...relay })));
        if (!dryRun) await this.#sweeper.end(record, relayed);
      }
    });
    return ended;
  }

  /** Ends what this host has with the suspended cell of this id, and forgets it. Answers with what that was. */
  async endHeld(cell: string, dryRun: boolean): Promise<HeldFact[]> {
    const ended: HeldFact[] = [];
    await this.#turns.run(async () => {
      for (const record of this.#records.of(cell)) {
        if (record.heldAt === undefined) continue;
        ended.push({ cell, flows: record.flows.size, since: record.heldAt });
        if (!dryRun) await this.#endHeld(record);
      }
    });
    return ended;
  }

  /** Whether a cell at the other end of one of these flows has announced a move that has not happened yet. */
  async isAwaitingMove(ids: readonly FlowId[]): Promise<boolean> {
    let awaiting = false;
    await this.#turns.run(async () => {
      awaiting = ids.some((id) => this.#records.owner(id)?.armedAt !== undefined);
    });
    return awaiting;
  }

  /** Whether a cell at the other end of one of these flows may move without an announcement: its keys are exchanged. */
  async areKept(ids: readonly FlowId[]): Promise<boolean> {
    let kept = false;
    await this.#turns.run(async () => {
      kept = ids.some((id) => this.#records.isKept(id));
    });
    return kept;
  }

  /**
   * Flows that arrive here with a cell, and whose other ends have moved: from now on this host follows those. Their cells
   * come and claim them when they move again.
   */
  async place(scope: number, flows: readonly PlacedFlow[]): Promise<void> {
    await this.#turns.run(() => this.#cells.place(scope, flows));
  }

  /** The cell did not come after all: its flows are nobody's here. */
  async unplace(ids: readonly FlowId[]): Promise<void> {
    await this.#turns.run(() => this.#cells.unplace(ids));
  }

  /** Those of these flows of this host whose other ends are suspended. */
  heldAmong(ids: readonly FlowId[]): FlowId[] {
    return this.#heldEnds.among(ids);
  }

  /** @throws OsmosisError FLOWS_CHANGED where these ends can't leave without others that stay. */
  async checkHeld(ids: readonly FlowId[]): Promise<void> {
    await this.#turns.run(async () => void this.#heldEnds.check(ids));
  }

  /** What the host that these ends go to has to know; nothing of it changes here from now on. @throws as checkHeld */
  async handOut(ids: readonly FlowId[]): Promise<RemoteHeld[]> {
    let held: RemoteHeld[] = [];
    await this.#turns.run(async () => {
      held = this.#heldEnds.handOut(ids);
    });
    return held;
  }

  /** They stay after all. */
  async keepHeld(ids: readonly FlowId[]): Promise<void> {
    await this.#turns.run(async () => this.#heldEnds.keep(ids));
  }

  /** They have gone: what their cells say once they are back is passed on. */
  async handOver(handed: readonly Handed[]): Promise<void> {
    await this.#turns.run(async () => {
      for (const each of handed) this.#handedOver.add(each);
    });
  }

  /** A suspended cell at the other end of flows that arrive here. `ends`: where they are, as it is told once it is back. */
  async adoptHeld(scope: number, held: RemoteHeld, ends: readonly Label[]): Promise<void> {
    await this.#turns.run(async () => {
      this.#handedOver.takeBack(handedTo('', held));
      await this.#heldEnds.adopt(scope, held, ends);
    });
  }

  /** This host has other addresses or routes. */
  async reroute(): Promise<void> {
    await this.#turns.run(() => this.#cells.reroute());
  }

  /** The cell is frozen here: what this host's own processes, and those it relays for, say goes on to where it will be. */
  async engage(cell: string): Promise<void> {
    await this.#cells.engage(cell);
  }

  /** The process runs here: flows whose sockets are missing from now on have ended. */
  async arrived(ids: readonly FlowId[]): Promise<void> {
    await this.#turns.run(async () => {
      for (const id of ids) {
        const flow = this.#records.owner(id)?.flows.get(keyOf(id));
        if (flow !== undefined) flow.missing = 0;
      }
      for (const record of this.#heldEnds.of(ids)) this.#heldSockets.lift(record);
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
    await this.#turns.run(async () => {
      const state = pair && firstState(cell, pair);
      const isOurs = ({ origin }: PeerRecord) => origin === undefined || isOwnAddress(origin);
      const record =
        state === undefined ? this.#records.of(cell).find(isOurs) : this.#records.create(cell, state);
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

  /**
   * Undoes what `isDropped` identities have announced and not carried out; answers with what that was. Flows that have moved
   * before stay where they are, and whatever is sealed for them now is refused for as long as nobody trusted announces them.
   */
  async dropAnnounced(isDropped: (by: Announcer) => boolean, dryRun: boolean): Promise<AnnouncedFact[]> {
    const dropped: AnnouncedFact[] = [];
    await this.#turns.run(async () => {
      for (const record of this.#records.all()) {
        const { cell, by, flows, claims } = record;
        if (by === undefined || !isDropped(by)) continue;
        const fact = { cell, address: by.address, flows: flows.size + claims.size };
        dropped.push(fact);
        if (dryRun) continue;
        this.#log.warn(fact, 'DROPPED: what was announced by an agent that is not trusted any more');
        await this.#cells.dropAnnounced(record);
        sayDistrust(this.#socket, cell, by.address);
      }
    });
    return dropped;
  }

  #enqueue(message: Message, from: Sender): void {
    if (message.type === 'ack') this.#handedOver.answer(message, from);
    const forUs =
      message.type === 'hello' ||
      message.type === 'move' ||
      message.type === 'hold' ||
      message.type === 'bye' ||
      message.type === 'follow' ||
      message.type === 'arm';
    if (!forUs || (message.type === 'hello' && !this.#isHeard(message, from))) return;
    if (this.#waiting.add(message, from)) void this.#inTurn(() => this.#serveNext());
  }

  #isHeard(hello: Hello, from: Sender): boolean {
    return !this.#waiting.hasPart(hello, from) && this.#hellos.isHeard(hello, from);
  }

  async #serveNext(): Promise<void> {
    if (performance.now() - this.#servingSince > SERVING_MS_MAX) {
      await setImmediate();
      this.#servingSince = performance.now();
    }
    const next = this.#waiting.take();
    try {
      if (next?.message.type === 'hello') await this.#hellos.serve(next.message, next.from);
      else if (next !== undefined) await this.#sealed(next.message, next.from);
    } finally {
      if (!this.#waiting.hasHello || this.#hellos.isDue) this.#hellos.answer();
    }
  }

  /** One after the other: two messages about one cell must not meet half done. */
  async #inTurn(step: () => Promise<void>): Promise<void> {
    await this.#turns.run(step).catch((error: unknown) => {
      this.#log.warn({ error: messageOf(error) }, 'a datagram could not be served');
    });
  }

  async #sealed(sealed: Sealed, from: Sender): Promise<void> {
    const known = this.#records.of(hex(sealed.cell));
    const state = stateFor(
      sealed,
      known.flatMap((record) => record.state ?? []),
    );
    const record = known.find((each) => each.state === state);
    if (state === undefined || record === undefined) {
      if (!this.#handedOver.pass(sealed, from)) this.#socket.drop('session');
      return;
    }
    // Its state is on its way to another host, with the end of its flows: it says it again.
    if (this.#heldEnds.isLeaving(record)) return this.#socket.drop('session');
    const consumed = consumeFromCell(state, sealed, () => this.#readyKeys.take(record));
    if (consumed.outcome === 'dropped') {
      record.state = consumed.state;
      if (this.#refusals.take())
        this.#log.warn(
          { cell_id: record.cell, peer: from.address, reason: DROP_REASONS[consumed.reason] },
          'sealed message dropped',
        );
      return this.#socket.drop(consumed.reason);
    }
    const { by } = record;
    if (consumed.outcome === 'accepted' && by !== undefined && !this.#trust.stands(by.address, by.identity)) {
      this.#trust.refuse(by.address, by.identity);
      return this.#socket.drop('untrusted');
    }
    // As if it were lost: it comes again.
    if (consumed.outcome === 'accepted' && isPause(consumed.message) && !this.#cells.canPause(record)) return;
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
    if (consumed.outcome === 'accepted') this.#recognize(record, consumed.message.type);
    if (sealed.type === 'arm') this.#readyKeys.make(record);
  }

  /** What opened was sealed for whoever has shown this identity, and a receipt for its address, with the pair's key. */
  #recognize(record: PeerRecord, type: Accepted['type']): void {
    const { by } = record;
    if (by !== undefined) this.#trust.prove(by.address, by.identity);
    // A MOVE makes new keys: whose they are, the next HELLO says.
    if (type === 'move') record.by = undefined;
  }

  async #apply(record: PeerRecord, message: Accepted): Promise<void> {
    switch (message.type) {
      case 'move':
        return this.#cells.move(record, message.labels);
      case 'hold':
        return message.udp === 'pause' ? this.#cells.pause(record) : this.#cells.hold(record, message.udp);
      case 'arm':
        for (const { wire } of message.labels.slice(0, 1)) this.#socket.expect(wire.address);
        return this.#cells.armListed(record, message.labels);
      case 'follow':
        await this.#follows.set(record, message);
        await this.#cells.dropOver(record, message.ended);
        return this.#cells.tidy(record);
      case 'bye':
        if (message.reason === 'aborted') return this.#cells.disarm(record);
        return record.heldAt === undefined ? this.#cells.forget(record) : this.#endHeld(record);
    }
  }

  /** It will not come back: whoever waits for it here is told. */
  async #endHeld(record: PeerRecord): Promise<void> {
    const { cell, flows } = record;
    this.#log.info(
      { cell_id: cell, flows: flows.size },
      'a suspended cell was given up: its connections here end',
    );
    await endHeldSockets(record, this.#views());
    await this.#cells.forget(record);
  }
}

function isPause(message: Accepted): boolean {
  return message.type === 'hold' && message.udp === 'pause';
}

/** This host's own network namespace, and those of its cells. */
function viewsOf(cells: readonly Cell[]): NetworkView[] {
  const inside = cells.flatMap(({ init, link }) =>
    init === undefined || link === undefined ? [] : [{ pid: init.pid, scope: link.ifindex }],
  );
  return [{ pid: 'self', scope: 0 }, ...inside];
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex');
}
