/** The destination's half of one migration: make room, take the image, restore behind a fence, and let run once decided. */
import { randomBytes } from 'node:crypto';
import { closeSync, mkdirSync, openSync, readFileSync, rmSync, statfsSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { execa } from 'execa';
import {
  type CellInit,
  createNamespaces,
  destroyNamespaces,
  isCellSource,
  mountTerminals,
  setUpKernel,
} from '../cell/namespaces.ts';
import { knownFlows } from '../cell/new-flows.ts';
import type { Publication, PublishSpec } from '../cell/publication.ts';
import type { Cell } from '../cell/registry.ts';
import { endConnections } from '../cell/sockets.ts';
import { type AgentContext, decisionDirectory, imageDirectory } from '../context.ts';
import type { Label, PeerSession, RemoteHeld, Snapshot } from '../control/protocol.ts';
import { heldArgv, inOwnSession, insideArgv, restoreArgv } from '../criu/argv.ts';
import { Decision, type Verdict } from '../criu/decision.ts';
import { type CriuExit, criuErrors, type HeldCriu, holdCriu, markerAppears } from '../criu/run.ts';
import { SocketSetter } from '../datapath/socket-programs.ts';
import { OsmosisError } from '../error.ts';
import { TMPFS_MAGIC } from '../host/facts.ts';
import { IMAGE_STAYS, ImageWriter, PROCESS_STAYS } from '../image/writer.ts';
import { findByInnerPid, isAlive, startTicks } from '../proc/tree.ts';
import { UnderWay } from '../under-way.ts';
import type { Label as WireLabel } from '../wire/h2o-layout.ts';
import type { AnnouncementRecord } from './announcement.ts';
import { Arrival, type ArrivalRecord } from './arrival.ts';
import { type HomeKeys, homePeers, offeredHomes } from './homes.ts';
import { arrivingPublications } from './published.ts';
import { TurningPeers } from './turning-peers.ts';

/** First descriptor that CRIU is handed for what stayed behind. */
const FIRST_FD = 3;
/** Helpers of CRIU get pids this far after the highest of the tree, so that none of them is in its way. */
const PID_GAP = 100;
const RESTORE_END_MS_MAX = 30_000;
/** A step that an undoing waits for has ended by then: each program in it has a shorter limit. */
const STEP_MS_MAX = 30_000;
const MKFIFO_MS_MAX = 2_000;
type Stage = 'new' | 'prepared' | 'restored' | 'committed' | 'running' | 'ended';

/** Written down: what an agent that comes back must know to finish or undo. */
export type DestinationRecord = {
  readonly role: 'destination';
  readonly migration: string;
  readonly stage: Stage;
  readonly snapshot: Snapshot;
  /** Holds the decision. Undefined for a cell that comes out of a file: then it is this host's own. */
  readonly source?: { readonly addresses: readonly string[]; readonly key: Uint8Array } | undefined;
  readonly publish?: readonly PublishSpec[] | undefined;
  /** Other ends that have moved while the cell was suspended. */
  readonly ends?: readonly { readonly peer: string; readonly ends: readonly WireLabel[] }[] | undefined;
  /** Files that have come for it. */
  readonly sync?: string | undefined;
  readonly published: readonly Publication[];
  readonly init: CellInit | undefined;
  readonly arrival: ArrivalRecord;
  readonly announcements: readonly AnnouncementRecord[];
  /** Own keys of the pairs that the source has offered. */
  readonly homes?: readonly HomeKeys[];
};

type Request = Pick<DestinationRecord, 'snapshot' | 'source' | 'publish' | 'ends' | 'sync'>;

export class DestinationMigration {
  readonly id: string;
  readonly #context: AgentContext;
  readonly #directory: string;
  readonly #request: Request;
  readonly #save: (record: DestinationRecord) => void;
  #stage: Stage = 'new';
  #init: CellInit | undefined;
  #published: readonly Publication[] = [];
  readonly #arrival: Arrival;
  readonly #peers: TurningPeers;
  #homes: readonly HomeKeys[] = [];
  #heldCriu: HeldCriu | undefined;
  #criu: Promise<CriuExit> | undefined;
  #sockets: SocketSetter | undefined;
  readonly #resuming = new UnderWay<void>();
  /** What is under way: an undoing must not meet it half done. */
  #step: Promise<unknown> = Promise.resolve();

  constructor(
    context: AgentContext,
    id: string,
    request: Request,
    save: (record: DestinationRecord) => void,
    before?: Pick<DestinationRecord, 'arrival' | 'announcements'>,
  ) {
    this.#context = context;
    this.id = id;
    this.#request = request;
    this.#save = save;
    this.#directory = imageDirectory(context, id);
    const { snapshot, source } = request;
    this.#arrival = new Arrival(context, `osm${id.slice(0, 8)}`, snapshot, before?.arrival);
    const labels = () => this.#arrival.labels;
    const isFromFile = source === undefined;
    this.#peers = new TurningPeers(context, snapshot, labels, isFromFile, before?.announcements);
  }

  /** What an agent before this one had come to. */
  static adopt(
    context: AgentContext,
    record: DestinationRecord,
    save: (record: DestinationRecord) => void,
  ): DestinationMigration {
    const migration = new DestinationMigration(context, record.migration, record, save, record);
    migration.#stage = record.stage;
    migration.#init = record.init;
    migration.#homes = record.homes ?? [];
    migration.#published = record.published;
    return migration;
  }

  get stage(): Stage {
    return this.#stage;
  }

  get source(): Request['source'] {
    return this.#request.source;
  }

  /** The point of no return of a cell that comes out of a file. @throws OsmosisError ABORTED where it was undone. */
  commit(): void {
    if (this.source !== undefined || this.#stage !== 'restored')
      throw new OsmosisError('ABORTED', `can't commit a resumption that is ${this.#stage}`, {
        phase: 'commit',
        owner: 'file',
      });
    if (this.#decision.decide('commit') === 'commit') return;
    throw new OsmosisError('ABORTED', 'the resumption was undone; the image is as it was. Try again.', {
      phase: 'commit',
      owner: 'file',
    });
  }

  /** This host's own decision, which stands after this call. */
  decide(verdict: Verdict): Verdict {
    return this.#decision.decide(verdict);
  }

  get #decision(): Decision {
    return new Decision(decisionDirectory(this.#context), this.id);
  }

  record(): DestinationRecord {
    return {
      role: 'destination',
      migration: this.id,
      stage: this.#stage,
      ...this.#request,
      published: this.#published,
      init: this.#init,
      arrival: this.#arrival.record,
      announcements: this.#peers.announcements.map((one) => one.record()),
      homes: this.#homes,
    };
  }

  /** Makes the cell, draws its labels and raises its fence; the addresses differ from peer to peer where routes do. */
  prepare(): Promise<Label[]> {
    return this.#during(this.#prepare());
  }

  #during<Result>(step: Promise<Result>): Promise<Result> {
    this.#step = step.catch(() => undefined);
    return step;
  }

  async #prepare(): Promise<Label[]> {
    const { snapshot } = this.#request;
    if (this.source === undefined) this.#decision.prepare(new Uint8Array(randomBytes(32)));
    this.#makeDirectory();
    await execa('mkfifo', ['-m', '0600', join(this.#directory, 'verdict')], { timeout: MKFIFO_MS_MAX });
    this.#peers.prepare();
    this.#homes = offeredHomes(snapshot);
    this.#published = await this.#publications();
    await this.#arrival.drawLabels();
    this.#enter('prepared');
    this.#init = await createNamespaces(this.#hasNetwork);
    if (snapshot.checks.some(({ name, ok }) => name === 'terminal' && ok)) await mountTerminals(this.#init);
    this.#context.terminals.clear(snapshot.cell);
    const highest = Math.max(...snapshot.processes.map(({ inner_pid }) => inner_pid));
    await setUpKernel(this.#init, highest + PID_GAP);
    this.#sockets = this.#socketSetter();
    this.#enter('prepared');
    try {
      await this.#arrival.enter(this.#init, this.#published);
      // Known before they are told of the cell's return: what they say to it then must not be a stranger's.
      for (const { peer, ends } of this.#request.ends ?? []) await this.#arrival.followEnds(peer, ends);
    } finally {
      this.#enter('prepared');
    }
    this.#heldCriu = this.#hold(this.#init);
    return [...this.#arrival.labels];
  }

  /** Public keys for the source, whose new flows are to follow. */
  get homes(): { address: string; publicKey: Uint8Array }[] {
    return this.#homes.map(({ address, publicKey }) => ({ address, publicKey }));
  }

  get published(): readonly Publication[] {
    return this.#published;
  }

  /** @throws OsmosisError PREFLIGHT where what the plan has found possible is so no more. */
  async #publications(): Promise<readonly Publication[]> {
    const { snapshot, publish = [] } = this.#request;
    const { publications, problems } = await arrivingPublications(publish, snapshot, !this.#hasNetwork);
    if (problems.length === 0) return publications;
    throw new OsmosisError('PREFLIGHT', `it can't be published so: ${problems.join('; ')}`, {
      phase: 'prepare',
    });
  }

  #makeDirectory(): void {
    mkdirSync(this.#directory, { recursive: true, mode: 0o700 });
    if (statfsSync(this.#directory).type !== TMPFS_MAGIC) {
      throw new OsmosisError(
        'NO_ROOM',
        `${this.#directory} is not on tmpfs; mount a tmpfs on /run at the destination first`,
        { phase: 'prepare' },
      );
    }
  }

  /** A cell that comes home uses the host's own network. */
  get #hasNetwork(): boolean {
    return !this.#arrival.record.home;
  }

  imageWriter(): ImageWriter {
    return new ImageWriter(this.#directory, this.#stays);
  }

  /**
   * Out of a file: no HELLO has armed its labels, so that its peers are told them now. They understand the new place from
   * here on, and one MOVE each is left to be said, whatever the number. `sessions`: each with the epoch of its MOVE; the one
   * before it is free.
   * @throws OsmosisError PEER_SILENT, PREFLIGHT
   */
  arm(sessions: readonly PeerSession[], signal: AbortSignal): Promise<void> {
    // For a successor of this agent, which takes it back.
    return this.#during(this.#peers.arm(sessions, () => this.#enter('prepared'), signal));
  }

  /** Restores, behind the fence and not yet running. Resolves when CRIU waits for the verdict. */
  restore(sessions: readonly PeerSession[], held: readonly RemoteHeld[], signal: AbortSignal): Promise<void> {
    return this.#during(this.#restore(sessions, held, signal));
  }

  async #restore(
    sessions: readonly PeerSession[],
    held: readonly RemoteHeld[],
    signal: AbortSignal,
  ): Promise<void> {
    const init = this.#init;
    if (init === undefined || this.#stage !== 'prepared')
      throw new OsmosisError('RESTORE_FAILED', 'there is no prepared cell; start the migration anew', {
        phase: 'restore',
      });
    if (this.source !== undefined) this.#peers.announce(sessions);
    await this.#arrival.adoptHeld(held);
    this.#criu = (this.#heldCriu ?? this.#hold(init)).begin();
    // From here on a successor of this agent has to ask the source before it may undo.
    this.#enter('restored');
    if (!(await markerAppears(this.#directory, 'restored', this.#criu, signal))) throw this.#restoreFailed();
    // Waited for before the process runs; beside the decision until then.
    void this.#sockets?.apply(init.pid);
  }

  /** CRIU, inside the cell, which waits to be told to begin. */
  #hold(init: CellInit): HeldCriu {
    const { outside } = this.#request.snapshot;
    // Opened through the cell's own root: CRIU takes no descriptor of another mount namespace.
    const nulls = outside.map(() => openSync(`/proc/${init.pid}/root/dev/null`, 'r+'));
    try {
      const inherited = outside.map(({ resource }) => resource);
      const restore = heldArgv(restoreArgv(this.#directory, inherited, FIRST_FD));
      const argv = insideArgv({ init: init.pid, net: this.#hasNetwork }, inOwnSession(restore));
      return holdCriu(argv, { env: { OSMOSIS_WORK: this.#directory }, descriptors: nulls });
    } finally {
      for (const fd of nulls) closeSync(fd);
    }
  }

  #socketSetter(): SocketSetter {
    const { log } = this.#context;
    return new SocketSetter(this.#request.snapshot.socket_options, (message) =>
      log.warn({ migration: this.id }, message),
    );
  }

  /** What a failure before the commit leaves. */
  get #stays(): string {
    return this.source === undefined ? IMAGE_STAYS : PROCESS_STAYS;
  }

  #restoreFailed(): OsmosisError {
    const why = criuErrors(this.#directory, 'restore.log');
    return new OsmosisError(
      'RESTORE_FAILED',
      `CRIU could not restore the process: ${why}; ${this.#stays}. See docs/limits.md.`,
      { phase: 'restore' },
    );
  }

  /** After the source's commit: MOVE first, then the fence, then the process. What fails from here on is tried again. */
  resume(): Promise<void> {
    return this.#resuming.join(this.id, () => this.#resume());
  }

  async #resume(): Promise<void> {
    if (this.#stage === 'running') return;
    // Nothing is written here, where every millisecond counts: a successor of this agent finds "restored", asks, is told
    // "commit", and does the same again with the same datagrams.
    const turned = this.#peers.start();
    this.#stage = 'committed';
    const held = this.source === undefined;
    // Its kernel repeats what is unacknowledged, whether the process runs or not: a peer that has not turned would answer with a reset.
    await (held ? this.#peers.headStart(turned) : this.#peers.unaskedTurned());
    await this.#arrival.open();
    // Under way since the restore, unless this agent is the successor of the one that restored.
    if (this.#init !== undefined) await (this.#sockets ?? this.#socketSetter()).apply(this.#init.pid);
    // The first packets of the restored sockets wake their peers, whose answers must find them turned already.
    if (!held) await this.#peers.headStart(turned);
    for (const one of this.#peers.announcements) await this.#arrival.followEnds(one.peer, one.ends);
    this.#letRun();
    await markerAppears(
      this.#directory,
      'resumed',
      this.#criu ?? sleep(RESTORE_END_MS_MAX),
      AbortSignal.timeout(RESTORE_END_MS_MAX),
    );
    await this.#arrival.release();
    this.#stage = 'running';
  }

  /** Connections of peers that were left behind end now, not after minutes of silence. */
  async #killDropped(): Promise<void> {
    if (this.#init === undefined) return;
    const namespaces = { init: this.#init.pid, net: this.#hasNetwork };
    await endConnections(namespaces, this.#request.snapshot.dropped);
  }

  #register(): void {
    const { registry, log } = this.#context;
    const pid = this.rootPid();
    // Registered all the same: whoever looks after the cells takes away what was made for it.
    if (pid === undefined) log.warn({ migration: this.id }, 'the restored process has ended already');
    const { snapshot } = this.#request;
    const { home, link, side, labels, entries } = this.#arrival.record;
    const cell: Cell = {
      id: snapshot.cell,
      name: snapshot.name,
      pid: pid ?? 0,
      ticks: pid === undefined ? 0 : (startTicks(pid) ?? 0),
      init: this.#init,
      link,
      // At home they are those of the host.
      addresses: home ? [] : snapshot.addresses.filter((address) => !isCellSource(address)),
      side,
      labels: labels.map((row) => ({ ...row, peer: this.#peers.placeOf(row.peer) })),
      flows: entries,
      peers: [...this.#peers.announcements.map((one) => one.keys()), ...homePeers(this.#homes, snapshot)],
      known: knownFlows(snapshot.flows),
      published: this.#published,
      ...(snapshot.placement && { placement: snapshot.placement }),
      ...(snapshot.terminal && { terminal: snapshot.terminal }),
      ...(this.#forwarding && { forwarding: this.#forwarding }),
    };
    registry.put(cell);
  }

  get #forwarding(): Cell['forwarding'] {
    const { forwarding } = this.#request.snapshot;
    if (forwarding === undefined || this.#arrival.record.home) return undefined;
    const { lease_s, since, endpoints } = forwarding;
    return { lease_s, since, endpoints };
  }

  /** The restored root as a pid of this host. */
  rootPid(): number | undefined {
    if (this.#init === undefined) return undefined;
    const inner = Number(readFileSync(join(this.#directory, 'restored.pid'), 'utf8'));
    const pid = findByInnerPid(this.#init.pid, inner);
    return pid !== undefined && isAlive(pid) ? pid : undefined;
  }

  /** Waits for the peers' ACKs up to `timeoutMs`; the sending goes on after that. */
  async confirm(timeoutMs: number): Promise<{ silent: string[]; flip_ms: number[] }> {
    await this.#killDropped();
    await this.#peers.acknowledged(timeoutMs);
    await this.#arrival.settle();
    this.#register();
    const { awaited } = this.#peers;
    return {
      silent: awaited.filter((one) => !one.isAcknowledged).map(({ peer }) => peer),
      flip_ms: awaited.flatMap((one) => one.roundTripMs ?? []),
    };
  }

  /** The image is no longer needed, and neither is this record. */
  end(): void {
    rmSync(this.#directory, { recursive: true, force: true });
    if (this.source === undefined) this.#decision.clear();
    this.#stage = 'ended';
  }

  /** Before commit: nothing of the cell remains here. CRIU and what it restored live in its PID namespace, and end with it. */
  async undo(): Promise<void> {
    if (this.#stage === 'committed' || this.#stage === 'running')
      throw new OsmosisError('ABORTED', 'the process runs here already', { owner: 'destination' });
    if (this.source === undefined && this.#decision.decide('abort') === 'commit')
      throw new OsmosisError('ABORTED', 'it had been decided already: the process will run here', {
        owner: 'destination',
      });
    // First the namespaces, which ends a restore that is under way; then those that were being made.
    const early = this.#init;
    if (early !== undefined) await destroyNamespaces(early);
    await Promise.race([this.#step, sleep(STEP_MS_MAX, undefined, { ref: false })]);
    this.#heldCriu?.end();
    if (this.#init !== undefined && this.#init !== early) await destroyNamespaces(this.#init);
    this.#context.terminals.clear(this.#request.snapshot.cell);
    await this.#sockets?.drop();
    await this.#peers.disarm();
    await this.#arrival.undo();
    this.end();
  }

  /** A FIFO that the hook holds open: opening for reading and writing never blocks, and the line waits there for it. */
  #letRun(): void {
    const fd = openSync(join(this.#directory, 'verdict'), 'r+');
    writeSync(fd, 'commit\n');
    closeSync(fd);
  }

  #enter(stage: Stage): void {
    this.#stage = stage;
    this.#save(this.record());
  }
}
