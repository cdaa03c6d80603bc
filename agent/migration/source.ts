/** The source's half of one migration: hold off, announce, freeze, decide, and either let go or go on in place. */

import { mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Flow, flowKey, type PlacedFlow } from '../address.ts';
import { adoptNewFlows } from '../cell/new-flows.ts';
import type { Cell, PeerKeys } from '../cell/registry.ts';
import { takeDown } from '../cell/take-down.ts';
import { type AgentContext, decisionDirectory, imageDirectory } from '../context.ts';
import type { Label, PeerSession, RemoteHeld } from '../control/protocol.ts';
import type { Destination } from '../control/terminal-protocol.ts';
import { dumpArgv, heldArgv, insideArgv, type Namespaces } from '../criu/argv.ts';
import { Decision } from '../criu/decision.ts';
import { type CriuExit, criuErrors, type HeldCriu, holdCriu, markerAppears } from '../criu/run.ts';
import type { FlowId } from '../datapath/model.ts';
import { OsmosisError } from '../error.ts';
import type { Handed } from '../h2o/handed-over.ts';
import { type ImagePiece, readImage } from '../image/reader.ts';
import { inspectTree, type Tree } from '../proc/inspect.ts';
import { untilTraced } from '../proc/standstill.ts';
import { isAlive, processStatus, startTicks } from '../proc/tree.ts';
import type { UdpPolicy } from '../wire/h2o-layout.ts';
import { DatagramQueues, type Leftover, unconnectedFlows, withFlows } from './datagrams.ts';
import { Departure, type DepartureRecord } from './departure.ts';
import { type Answered, SourceForwarding } from './forwarding.ts';
import { Holding } from './holding.ts';
import { checkFlows } from './late-flows.ts';
import { offerOwnEnds } from './offering.ts';
import { flowIds, placeFlows } from './placed.ts';
import { quiesce } from './quiesce.ts';
import { SuspendedEnds } from './suspended-ends.ts';
import { ToldPeers } from './told-peers.ts';
import type { Agreed } from './unasked.ts';

/** A frozen process goes on by itself after this, whatever becomes of orchestrator and agent: hook.sh counts. */
const FROZEN_MS_MAX = 60_000;
/** The same where it goes into a file: it would stand still for longer anyway, and its peers forget what is armed after 600 s. */
const SUSPENDING_MS_MAX = 300_000;
/** Peers let datagrams wait within this (some 50 ms), or those that come while the process is saved are lost. It runs meanwhile. */
const PAUSE_MS_MAX = 3_000;
const HOOK_TICK_MS = 20;
/** The last pieces of the image leave before anything else is done at the source. */
const LOOK_AFTER_MS = 10;
/** CRIU ends its copy, or resumes it, within this after the decision. */
const CRIU_END_MS_MAX = 30_000;

/** What is decided is told, whoever goes away; the sending has a limit of its own. */
const NEVER = new AbortController().signal;

/** A tree whose flows are known to be where they are. */
type PlacedTree = Omit<Tree, 'flows'> & {
  readonly flows: PlacedFlow[];
  readonly dropped: PlacedFlow[];
  readonly forwarding?: SourceForwarding['handed'];
};

type Stage = 'prepared' | 'armed' | 'frozen' | 'committed' | 'ended';

/** Written down: what an agent that comes back must know to finish or undo. */
export type SourceRecord = DepartureRecord & {
  readonly role: 'source';
  readonly migration: string;
  readonly cell: Cell;
  /** Of the peers that may have armed. */
  readonly keys: readonly PeerKeys[];
  /** Of a suspension: what its HOLDs are sealed with. */
  readonly holds?: readonly PeerSession[] | undefined;
  /** Suspended cells whose other ends go along. */
  readonly handed?: readonly Handed[] | undefined;
  /** Of a suspension: its file says that it owns the process, so that nobody will ask for the decision. */
  readonly marked?: boolean | undefined;
};

type Request = {
  readonly key: Uint8Array;
  /** Peers without an agent: their flows are left behind, or carried on by this host. */
  readonly drop: readonly string[];
  readonly relay: readonly string[];
  readonly datagrams: readonly Flow[];
  readonly forward_lease_s?: number | undefined;
};

type Frozen = { sessions: PeerSession[]; dump_ms: number; datagrams_left: Leftover; held?: RemoteHeld[] };

export class SourceMigration {
  readonly id: string;
  readonly #context: AgentContext;
  readonly #decision: Decision;
  readonly #directory: string;
  /** Of its own: watching the image directory would cost CRIU an event for each of thousands of files. */
  readonly #marks: string;
  readonly #abort = new AbortController();
  #cell: Cell;
  #drop: ReadonlySet<string> = new Set();
  #stage: Stage = 'prepared';
  readonly #departure: Departure;
  #flows: PlacedFlow[] = [];
  readonly #suspended: SuspendedEnds;
  #labels: Label[] = [];
  /** It goes into a file, and to no host. */
  #suspends = false;
  /** Of a suspension: what becomes of datagrams for the cell. */
  #udp: UdpPolicy | undefined;
  #holding: Holding | undefined;
  #marked = false;
  /** Once, whoever asks first: the orchestrator, or what its going away begins. */
  #released: Promise<void> | undefined;
  #forwarding: SourceForwarding | undefined;
  /** Public keys of the destination for pairs with this host. */
  #answered: Answered = [];
  /** Unix sockets that are to be left out. */
  #external: string[] = [];
  readonly #told: ToldPeers;
  #queues: DatagramQueues | undefined;
  #frozen = false;
  /** The tree's flows, by flowKey, once they are settled. */
  #leaving: ReadonlySet<string> = new Set();
  #flowsLookedAt = false;
  #changed: unknown;
  #heldCriu: HeldCriu | undefined;
  #criu: Promise<CriuExit> | undefined;
  /** What is under way: an undoing must not meet it half done. */
  #step: Promise<unknown> = Promise.resolve();

  constructor(context: AgentContext, id: string, cell: Cell, agreed: Agreed) {
    this.#context = context;
    this.#told = new ToldPeers(context, agreed);
    this.#suspended = new SuspendedEnds(context.peerSide);
    this.id = id;
    this.#cell = cell;
    this.#departure = new Departure(context.datapath, cell);
    this.#decision = new Decision(decisionDirectory(context), id);
    this.#directory = imageDirectory(context, id);
    this.#marks = join(this.#directory, 'marks');
  }

  get cell(): Cell {
    return this.#cell;
  }

  /** The destination may have restored, and so may have to ask for the decision. */
  get wasFrozen(): boolean {
    return this.#frozen;
  }

  get isCommitted(): boolean {
    return this.#stage === 'committed';
  }

  record(): SourceRecord {
    return {
      role: 'source',
      migration: this.id,
      cell: this.#cell,
      keys: this.#told.keys,
      ...(this.#holding && { holds: this.#holding.sessions, marked: this.#marked }),
      ...(this.#suspended.handed.length > 0 && { handed: this.#suspended.handed }),
      ...this.#departure.record(),
    };
  }

  /** Holds off new connections and says what exactly is to move. `datagrams`: flows of unconnected sockets, as planned. */
  prepare(request: Request, signal: AbortSignal): Promise<PlacedTree> {
    return this.#during(signal, (either) => this.#prepare(request, either));
  }

  #during<Result>(signal: AbortSignal, step: (either: AbortSignal) => Promise<Result>): Promise<Result> {
    const done = step(AbortSignal.any([signal, this.#abort.signal]));
    this.#step = done.catch(() => undefined);
    return done;
  }

  async #prepare(
    { key, drop, relay, datagrams, forward_lease_s }: Request,
    signal: AbortSignal,
  ): Promise<PlacedTree> {
    this.#drop = new Set(drop);
    this.#decision.prepare(key);
    mkdirSync(this.#marks, { recursive: true, mode: 0o700 });
    const served = this.#cell.terminal !== undefined;
    const tree = await inspectTree(this.#cell.pid, { options: false, served });
    await this.#departure.holdOff(tree.listeners, await this.#place(tree.flows));
    await quiesce(this.#cell.pid, tree.listeners, signal);
    const found = await inspectTree(this.#cell.pid, { served });
    const settled = withFlows(found, unconnectedFlows(this.#cell.pid, datagrams, found));
    this.#cell = await adoptNewFlows(this.#context, this.#cell);
    this.#departure.update(this.#cell);
    this.#queues = new DatagramQueues(this.#cell.pid);
    this.#leaving = new Set(settled.flows.map((flow) => flowKey(flow)));
    await this.#checkOtherEnds(settled.flows);
    const flows = await offerOwnEnds(
      this.#context.peerSide,
      this.#cell,
      await this.#place(settled.flows),
      new Set(relay),
    );
    const { dropped = [], going = [] } = Object.groupBy(flows, ({ at }) =>
      this.#drop.has(at.address) ? 'dropped' : 'going',
    );
    this.#flows = going;
    await this.#suspended.take(this.#cell, going);
    this.#external = settled.outside.filter(({ external }) => external).map(({ resource }) => resource);
    await this.#departure.enterFlows(flows);
    const peers = this.#flows.map(({ at }) => at.address);
    this.#forwarding = await SourceForwarding.of(this.#cell, settled, peers, forward_lease_s);
    return {
      ...settled,
      flows: this.#flows,
      dropped,
      ...(this.#forwarding && { forwarding: this.#forwarding.handed }),
    };
  }

  #place(flows: readonly Flow[]): Promise<PlacedFlow[]> {
    return placeFlows(this.#context.datapath, this.#cell, flows);
  }

  /** Both ends of a flow can move, one after the other: from here on no cell may announce a move to this one's flows. */
  async #checkOtherEnds(flows: readonly Flow[]): Promise<void> {
    if (!(await this.#context.peerSide.isAwaitingMove(flowIds(this.#cell, flows)))) return;
    throw new OsmosisError(
      'FLOWS_CHANGED',
      'a process at the other end of a connection is being moved just now; this one goes on at the source. Try again.',
      { phase: 'prepare' },
    );
  }

  /** Whether a flow of this host is one of this cell's, and so on its way to another host. */
  isLeaving({ scope, ...flow }: FlowId): boolean {
    return scope === (this.#cell.link?.ifindex ?? 0) && this.#leaving.has(flowKey(flow));
  }

  /**
   * Announces the new place to every peer; each has to have, and to let this cell claim, every flow. Answers with the number
   * of those of UDP that one has refused: of these nobody tells the other end that they have ended.
   */
  arm(labels: readonly Label[], answered: Answered, signal: AbortSignal): Promise<number> {
    return this.#during(signal, (either) => this.#arm(labels, answered, either));
  }

  async #arm(labels: readonly Label[], answered: Answered, signal: AbortSignal): Promise<number> {
    this.#labels = [...labels];
    this.#answered = answered;
    await this.#departure.enterForwards(labels, this.#flows);
    return this.#armPeers(signal);
  }

  /** For a suspension, in place of `arm`: every peer takes the cell's flows on where they are now, to hold them later. */
  stay(signal: AbortSignal, udp?: UdpPolicy): Promise<void> {
    this.#udp = udp;
    return this.#during(signal, (either) => this.#stay(either));
  }

  async #stay(signal: AbortSignal): Promise<void> {
    this.#suspends = true;
    if (!this.#suspended.isNone)
      throw new OsmosisError(
        'FLOWS_CHANGED',
        'the process at the other end of a connection is suspended itself: one of the two has to be there for the other. It goes ' +
          'on at the source. Resume that one first.',
        { phase: 'prepare' },
      );
    this.#labels = this.#departure.placedLabels(this.#flows);
    await this.#armPeers(signal);
  }

  /** Answers with how many flows were refused that are not there any more. */
  async #armPeers(signal: AbortSignal): Promise<number> {
    const refused = await this.#tellPeers(signal);
    this.#heldCriu = this.#hold();
    await this.#context.terminals.leave(this.#cell, signal);
    this.#stage = 'armed';
    return refused;
  }

  async #tellPeers(signal: AbortSignal): Promise<number> {
    const followers = this.#forwarding?.handed.followers ?? [];
    const suspends = this.#suspends;
    const telling = {
      cell: this.#cell,
      flows: this.#suspended.others(this.#flows),
      labels: this.#labels,
      suspends,
      followers,
    };
    try {
      return await this.#told.tell(telling, signal);
    } finally {
      // With the keys of peers that were new to it.
      this.#cell = this.#context.registry.get(this.#cell.id) ?? this.#cell;
    }
  }

  /** From here the process stands still. Resolves when all of it is written, and CRIU waits for the decision. */
  freeze(signal: AbortSignal): Promise<Frozen> {
    return this.#during(signal, (either) => this.#freeze(either));
  }

  async #freeze(signal: AbortSignal): Promise<Frozen> {
    if (!this.#isAlive()) throw this.#exited();
    const pausing = this.#suspends ? this.#sessions() : undefined;
    if (pausing !== undefined) await this.#pause(pausing, signal);
    const held = await this.#suspended.handOut(this.#labels);
    await this.#departure.switchTo('leaving');
    if (!this.#suspends) await this.#context.peerSide.engage(this.#cell.id);
    await this.#queues?.drain(signal);
    signal.throwIfAborted();
    const started = performance.now();
    const exited = (this.#heldCriu ?? this.#hold()).begin();
    this.#criu = exited;
    // Beside CRIU's work, never on the gap's critical path.
    const sessions = pausing ?? this.#sessions();
    const [frozen] = await Promise.all([
      markerAppears(this.#marks, 'frozen', exited, signal),
      this.#silence(exited, signal),
    ]);
    if (!frozen) throw this.#dumpFailed();
    this.#frozen = true;
    this.#stage = 'frozen';
    if (this.#suspends) this.#holding = new Holding(this.#context.socket, sessions);
    const datagrams_left = this.#queues?.leftover() ?? { sockets: 0, bytes: 0 };
    const frozenHere = { sessions, dump_ms: performance.now() - started, datagrams_left };
    return held.length === 0 ? frozenHere : { ...frozenHere, held };
  }

  /**
   * What peers send from here on waits at their hosts, so that nothing is lost while the process is saved. A peer that does not
   * answer in time goes on sending. Takes an epoch of each session.
   */
  async #pause(sessions: PeerSession[], signal: AbortSignal): Promise<void> {
    const { socket, log } = this.#context;
    if (this.#udp === 'drop' || !this.#flows.some(({ protocol }) => protocol === 'udp')) return;
    this.#told.takeEpoch(this.#cell.id);
    const stop = new AbortController();
    const pausing = new Holding(
      socket,
      sessions.map((session) => ({ ...session, udp: 'pause' })),
    );
    await pausing.within(PAUSE_MS_MAX, AbortSignal.any([signal, stop.signal]));
    stop.abort();
    if (pausing.silent.length > 0)
      log.warn({ peers: pausing.silent }, 'datagrams of these peers do not wait yet: some may be lost');
    for (const session of sessions) session.epoch++;
  }

  /** CRIU, which waits to be told to begin. */
  #hold(): HeldCriu {
    const pid = processStatus(this.#cell.pid)?.namespacePids.at(-1) ?? this.#cell.pid;
    const dump = dumpArgv(
      this.#cell.init === undefined ? this.#cell.pid : pid,
      this.#directory,
      this.#external,
    );
    return holdCriu(insideArgv(this.#namespaces(), heldArgv(dump)), {
      env: {
        OSMOSIS_WORK: this.#marks,
        OSMOSIS_DECISION: this.#decision.path,
        OSMOSIS_DEADLINE_TICKS: String(this.#frozenMsMax / HOOK_TICK_MS),
      },
    });
  }

  /** Its sockets too, once CRIU has stopped every process. An undoing aborts `signal` before it switches back. */
  async #silence(ended: Promise<unknown>, signal: AbortSignal): Promise<void> {
    if (!(await untilTraced(this.#cell.pid, ended, signal)) || signal.aborted) return;
    await this.#departure.switchTo('frozen');
  }

  get #frozenMsMax(): number {
    return this.#suspends ? SUSPENDING_MS_MAX : FROZEN_MS_MAX;
  }

  #namespaces(): Namespaces {
    const { init, link } = this.#cell;
    return init === undefined ? 'host' : { init: init.pid, net: link !== undefined };
  }

  #sessions(): PeerSession[] {
    return this.#told.sessions(this.#cell.id, this.#udp);
  }

  #isAlive(): boolean {
    return isAlive(this.#cell.pid) && startTicks(this.#cell.pid) === this.#cell.ticks;
  }

  #exited(): OsmosisError {
    return new OsmosisError(
      'TARGET_EXITED',
      'the process ended by itself before it was frozen; nothing is left to move.',
      { phase: 'freeze' },
    );
  }

  #dumpFailed(): OsmosisError {
    if (!this.#isAlive()) return this.#exited();
    if (this.#abort.signal.aborted) {
      return new OsmosisError('ABORTED', 'the migration was undone while CRIU saved the process', {
        phase: 'freeze',
      });
    }
    const why = criuErrors(this.#directory, 'dump.log');
    return new OsmosisError(
      'DUMP_FAILED',
      `CRIU could not save the process: ${why}. It goes on at the source. See docs/limits.md.`,
      { phase: 'freeze' },
    );
  }

  /** Once all of it is on its way, and the destination restores, there is time to look at the flows once more. */
  async *image(signal: AbortSignal): AsyncGenerator<ImagePiece> {
    yield* readImage(this.#directory, () => this.#frozen, AbortSignal.any([signal, this.#abort.signal]));
    setTimeout(() => this.#lookAtFlows(), LOOK_AFTER_MS);
  }

  #lookAtFlows(): void {
    if (this.#flowsLookedAt) return;
    this.#flowsLookedAt = true;
    try {
      checkFlows(this.#cell.pid, this.#directory, this.#departure.knownFlows());
    } catch (error) {
      this.#changed = error;
    }
  }

  /** The point of no return. @throws OsmosisError ABORTED where the hook's deadline decided first. */
  commit(to?: Destination): void {
    if (this.#stage !== 'frozen')
      throw new OsmosisError('ABORTED', `can't commit a migration that is ${this.#stage}`, {
        phase: 'commit',
        owner: 'source',
      });
    this.#lookAtFlows();
    if (this.#changed !== undefined) throw this.#changed;
    if (this.#decision.decide('commit') === 'commit') {
      this.#stage = 'committed';
      this.#context.terminals.bound(this.#cell.id, this.#suspends ? 'file' : to);
      return;
    }
    throw new OsmosisError(
      'ABORTED',
      `the process was frozen for more than ${this.#frozenMsMax} ms and goes on at the source; try again`,
      {
        phase: 'commit',
        owner: 'source',
      },
    );
  }

  /** Its file says that it owns the process. */
  get isMarked(): boolean {
    return this.#marked;
  }

  mark(): void {
    this.#marked = true;
  }

  get suspends(): boolean {
    return this.#suspends;
  }

  /** After commit: every peer waits for the cell's return. @returns those that have not acknowledged within `limit_ms`. */
  async hold(limit_ms: number): Promise<string[]> {
    if (this.#stage !== 'committed')
      throw new OsmosisError('ABORTED', `can't hold the peers of a suspension that is ${this.#stage}`, {
        phase: 'confirm',
      });
    return (await this.#holding?.within(limit_ms, NEVER)) ?? [];
  }

  /** All of them have. */
  get isHeld(): boolean {
    return this.#holding?.silent.length === 0;
  }

  /** Until they have, or are given up. */
  async held(): Promise<void> {
    await this.#holding?.run(NEVER);
  }

  /** After commit and once the peers have turned: CRIU's copy, the fence and the image go. */
  release(): Promise<void> {
    this.#released ??= this.#release();
    return this.#released;
  }

  async #release(): Promise<void> {
    await this.#criuEnd();
    const { openings, peerSide } = this.#context;
    await this.#forwarding?.begin(this.#context, this.#cell.id, this.#labels, this.#answered);
    await openings.close(this.#cell);
    await this.#departure.remove();
    await peerSide.handOver(this.#suspended.handed);
    await peerSide.unplace(flowIds(this.#cell, this.#flows));
    await peerSide.ownEnds.withdraw(this.#flows);
    await takeDown(this.#context, this.#cell);
    this.#context.registry.remove(this.#cell.id);
    this.#context.terminals.gone(this.#cell);
    await this.#context.datapath.removeIfEmpty();
    this.#stage = 'ended';
  }

  /** Everything as before. False where the decision was commit: then there is nothing to undo. */
  async undo(): Promise<boolean> {
    if (this.#stage === 'ended') return true;
    this.#abort.abort(new OsmosisError('ABORTED', 'the migration was undone'));
    if (this.#decision.decide('abort') === 'commit') {
      this.#stage = 'committed';
      return false;
    }
    // First, so that nothing is lost that arrives while CRIU lets the process go on.
    await this.#departure.switchTo('home');
    await this.#criuEnd();
    await Promise.race([this.#step, sleep(CRIU_END_MS_MAX, undefined, { ref: false })]);
    this.#heldCriu?.end();
    const { byes, registry } = this.#context;
    await byes.say(this.#cell.id, this.#told.keys, () => registry.save(this.#cell.id));
    await this.#departure.takeBack();
    await this.#suspended.keep();
    await this.#context.peerSide.ownEnds.withdraw(this.#flows);
    await this.#context.datapath.removeIfEmpty();
    this.#context.terminals.back(this.#cell.id);
    this.#stage = 'ended';
    return true;
  }

  /** The destination knows the outcome. */
  forget(): void {
    this.#decision.clear();
    rmSync(this.#directory, { recursive: true, force: true });
  }

  async #criuEnd(): Promise<void> {
    if (this.#criu === undefined) return;
    const ended = await Promise.race([this.#criu, sleep(CRIU_END_MS_MAX, undefined, { ref: false })]);
    if (ended === undefined)
      this.#context.log.error(
        { migration: this.id },
        'CRIU has not ended at the source; see dump.log in the image directory',
      );
  }
}
