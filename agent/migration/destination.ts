/** The destination's half of one migration: make room, take the image, restore behind a fence, and let run once decided. */
import { randomInt } from 'node:crypto';
import { closeSync, mkdirSync, openSync, readFileSync, rmSync, statfsSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { execa } from 'execa';
import { endpointText, type Protocol } from '../address.ts';
import {
  type CellInit,
  type CellLink,
  createLink,
  createNamespaces,
  destroyLink,
  destroyNamespaces,
  releaseQueue,
  setUpKernel,
} from '../cell/namespaces.ts';
import type { Cell } from '../cell/registry.ts';
import { type AgentContext, imageDirectory } from '../context.ts';
import type { Label, PeerSession, Snapshot } from '../control/protocol.ts';
import { inOwnSession, insideArgv, restoreArgv } from '../criu/argv.ts';
import { type CriuExit, criuErrors, markerAppears, startCriu } from '../criu/run.ts';
import { acceptOf, type FlowEntry } from '../datapath/model.ts';
import { SocketSetter } from '../datapath/socket-programs.ts';
import { OsmosisError } from '../error.ts';
import { TMPFS_MAGIC } from '../host/facts.ts';
import { type Route, routeTo } from '../host/routes.ts';
import { ImageWriter } from '../image/writer.ts';
import { findByInnerPid, isAlive, startTicks } from '../proc/tree.ts';
import { generateKeyPair, type KeyPair } from '../wire/h2o-session.ts';
import { Announcement } from './announcement.ts';

/** First descriptor that CRIU is handed for what stayed behind. */
const FIRST_FD = 3;
/** Helpers of CRIU get pids this far after the highest of the tree, so that none of them is in its way. */
const PID_GAP = 100;
const RESTORE_END_MS_MAX = 30_000;
const MKFIFO_MS_MAX = 2_000;
/** MOVE is under way for this long at most before the process runs: one round trip where peers are near. */
const HEAD_START_MS_MAX = 30;
const KILLED_SOCKETS_MS_MAX = 5_000;

type Stage = 'new' | 'prepared' | 'restored' | 'committed' | 'running' | 'ended';

/** Written down: what an agent that comes back must know to finish or undo. */
export type DestinationRecord = {
  readonly role: 'destination';
  readonly migration: string;
  readonly stage: Stage;
  readonly snapshot: Snapshot;
  readonly drop: readonly string[];
  readonly source: { readonly addresses: readonly string[]; readonly key: Uint8Array };
  readonly init: CellInit | undefined;
  readonly link: CellLink | undefined;
  readonly side: number;
  readonly labels: readonly Label[];
  readonly entries: readonly FlowEntry[];
  readonly announcements: readonly ReturnType<Announcement['record']>[];
};

type Request = Pick<DestinationRecord, 'snapshot' | 'drop' | 'source'>;

export class DestinationMigration {
  readonly id: string;
  readonly #context: AgentContext;
  readonly #directory: string;
  readonly #request: Request;
  readonly #save: (record: DestinationRecord) => void;
  #stage: Stage = 'new';
  #init: CellInit | undefined;
  #link: CellLink | undefined;
  #side: number;
  #labels: Label[] = [];
  #entries: FlowEntry[] = [];
  #announcements: Announcement[] = [];
  /** By peer; made ahead, because making them takes longer than all else in the restore phase but CRIU. */
  readonly #nextKeys = new Map<string, KeyPair>();
  #criu: Promise<CriuExit> | undefined;
  #sockets: SocketSetter | undefined;

  constructor(
    context: AgentContext,
    id: string,
    request: Request,
    save: (record: DestinationRecord) => void,
  ) {
    this.#context = context;
    this.id = id;
    this.#request = request;
    this.#save = save;
    this.#side = randomInt(1, 2 ** 31);
    this.#directory = imageDirectory(context, id);
  }

  /** What an agent before this one had come to. */
  static adopt(
    context: AgentContext,
    record: DestinationRecord,
    save: (record: DestinationRecord) => void,
  ): DestinationMigration {
    const migration = new DestinationMigration(context, record.migration, record, save);
    migration.#stage = record.stage;
    migration.#init = record.init;
    migration.#link = record.link;
    migration.#side = record.side;
    migration.#labels = [...record.labels];
    migration.#entries = [...record.entries];
    migration.#announcements = record.announcements.map((one) => Announcement.adopt(context.socket, one));
    return migration;
  }

  get stage(): Stage {
    return this.#stage;
  }

  get source(): Request['source'] {
    return this.#request.source;
  }

  record(): DestinationRecord {
    return {
      role: 'destination',
      migration: this.id,
      stage: this.#stage,
      ...this.#request,
      init: this.#init,
      link: this.#link,
      side: this.#side,
      labels: this.#labels,
      entries: this.#entries,
      announcements: this.#announcements.map((one) => one.record()),
    };
  }

  /** Makes the cell, draws its labels and raises its fence; the addresses differ from peer to peer where routes do. */
  async prepare(): Promise<Label[]> {
    const { snapshot } = this.#request;
    this.#makeDirectory();
    await execa('mkfifo', ['-m', '0600', join(this.#directory, 'verdict')], { timeout: MKFIFO_MS_MAX });
    for (const { remote } of snapshot.flows) {
      if (!this.#nextKeys.has(remote.address)) this.#nextKeys.set(remote.address, generateKeyPair());
    }
    const routes = new Map<string, Route>();
    for (const address of new Set(snapshot.flows.map(({ remote }) => remote.address)))
      routes.set(address, await routeTo(address));
    this.#drawLabels(routes);
    this.#enter('prepared');
    const mtu = Math.min(...[...routes.values()].map((route) => route.mtu), 65_535);
    this.#init = await createNamespaces(true);
    await setUpKernel(
      this.#init,
      Math.max(...snapshot.processes.map(({ inner_pid }) => inner_pid)) + PID_GAP,
    );
    this.#link = await createLink(
      this.#init,
      `osm${this.id.slice(0, 8)}`,
      snapshot.addresses,
      routes.size === 0 ? 1500 : mtu,
    );
    await this.#fenceFlows(routes);
    this.#sockets = this.#socketSetter();
    this.#enter('prepared');
    return this.#labels;
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

  #drawLabels(routes: ReadonlyMap<string, Route>): void {
    const { flows } = this.#request.snapshot;
    const endpoints = [
      ...new Map(
        flows.map(({ protocol, local }) => [`${protocol} ${endpointText(local)}`, { protocol, local }]),
      ).values(),
    ];
    const ports = this.#context.labels.draw(endpoints.map(({ protocol }) => protocol));
    const port = new Map(
      endpoints.map(({ protocol, local }, index) => [
        `${protocol} ${endpointText(local)}`,
        ports[index] ?? 0,
      ]),
    );
    const rows = new Map<string, Label>();
    for (const { protocol, local, remote } of flows) {
      const wire = {
        address: routes.get(remote.address)?.source ?? '',
        port: port.get(`${protocol} ${endpointText(local)}`) ?? 0,
      };
      rows.set(`${protocol} ${endpointText(local)} ${remote.address}`, {
        protocol,
        virtual: local,
        peer: remote.address,
        wire,
      });
    }
    this.#labels = [...rows.values()];
  }

  async #fenceFlows(routes: ReadonlyMap<string, Route>): Promise<void> {
    const { datapath } = this.#context;
    const link = this.#link;
    const { flows } = this.#request.snapshot;
    if (link === undefined || flows.length === 0) return;
    const wires = new Map(
      this.#labels.map(({ protocol, virtual, peer, wire }) => [
        `${protocol} ${endpointText(virtual)} ${peer}`,
        wire,
      ]),
    );
    this.#entries = flows.map((flow) => ({
      ...flow,
      wireLocal:
        wires.get(`${flow.protocol} ${endpointText(flow.local)} ${flow.remote.address}`) ?? flow.local,
      wireRemote: [
        { endpoint: flow.remote, ifindex: routes.get(flow.remote.address)?.ifindex ?? 0 },
        undefined,
      ],
      localSide: this.#side,
      remoteSide: 0,
      scope: link.ifindex,
    }));
    await datapath.putSide({
      id: this.#side,
      state: 'queued',
      active: 0,
      accept: acceptOf(0),
      ifindex: link.ifindex,
    });
    await datapath.putFlows(this.#entries);
    await datapath.attachCell(link.name);
    for (const device of new Set([...routes.values()].map((route) => route.device)))
      await datapath.attachDevice(device);
  }

  imageWriter(): ImageWriter {
    return new ImageWriter(this.#directory);
  }

  /** Restores, behind the fence and not yet running. Resolves when CRIU waits for the verdict. */
  async restore(sessions: readonly PeerSession[], signal: AbortSignal): Promise<void> {
    const init = this.#init;
    if (init === undefined || this.#stage !== 'prepared')
      throw new OsmosisError('RESTORE_FAILED', 'there is no prepared cell; start the migration anew', {
        phase: 'restore',
      });
    this.#announcements = sessions.map((session) =>
      Announcement.create(
        this.#context.socket,
        session,
        this.#labels,
        this.#nextKeys.get(session.peer) ?? generateKeyPair(),
      ),
    );
    const { outside } = this.#request.snapshot;
    // Opened through the cell's own root: CRIU takes no descriptor of another mount namespace.
    const nulls = outside.map(() => openSync(`/proc/${init.pid}/root/dev/null`, 'r+'));
    try {
      const inherited = outside.map(({ resource }) => resource);
      const argv = insideArgv(
        { init: init.pid, net: true },
        inOwnSession(restoreArgv(this.#directory, inherited, FIRST_FD)),
      );
      const run = startCriu(argv, { env: { OSMOSIS_WORK: this.#directory }, descriptors: nulls });
      this.#criu = run.exited;
      // From here on a successor of this agent has to ask the source before it may undo.
      this.#enter('restored');
      if (!(await markerAppears(this.#directory, 'restored', run.exited, signal)))
        throw this.#restoreFailed();
      await this.#sockets?.apply(init.pid);
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

  #restoreFailed(): OsmosisError {
    const why = criuErrors(this.#directory, 'restore.log');
    return new OsmosisError(
      'RESTORE_FAILED',
      `CRIU could not restore the process: ${why}. It goes on at the source. See docs/limits.md.`,
      { phase: 'restore' },
    );
  }

  /** After the source's commit: MOVE first, then the fence, then the process. What fails from here on is tried again. */
  async resume(): Promise<void> {
    if (this.#stage === 'running') return;
    // Nothing is written here, where every millisecond counts: a successor of this agent finds "restored", asks, is told
    // "commit", and does the same again with the same datagrams.
    const turned = Promise.all(this.#announcements.map((announcement) => announcement.start()));
    this.#stage = 'committed';
    await this.#openFence();
    // Done by now, unless this agent is the successor of one that restored.
    if (this.#init !== undefined) await (this.#sockets ?? this.#socketSetter()).apply(this.#init.pid);
    // The first packets of the restored sockets wake their peers, whose answers must find them turned already.
    await Promise.race([turned, sleep(HEAD_START_MS_MAX, undefined, { ref: false })]);
    this.#letRun();
    await markerAppears(
      this.#directory,
      'resumed',
      this.#criu ?? sleep(RESTORE_END_MS_MAX),
      AbortSignal.timeout(RESTORE_END_MS_MAX),
    );
    if (this.#link !== undefined) await releaseQueue(this.#link, this.#request.snapshot.addresses);
    this.#stage = 'running';
  }

  async #openFence(): Promise<void> {
    if (this.#link === undefined || this.#entries.length === 0) return;
    await this.#context.datapath.putSide({
      id: this.#side,
      state: 'home',
      active: 0,
      accept: acceptOf(0),
      ifindex: this.#link.ifindex,
    });
  }

  /** Connections of peers that were left behind end now, not after minutes of silence. */
  async #killDropped(): Promise<void> {
    if (this.#init === undefined) return;
    for (const peer of this.#request.drop) {
      const argv = insideArgv({ init: this.#init.pid, net: true }, [
        'ss',
        '--kill',
        '--tcp',
        '--no-header',
        'dst',
        peer,
      ]);
      await execa(argv[0] ?? '', argv.slice(1), { reject: false, timeout: KILLED_SOCKETS_MS_MAX });
    }
  }

  #register(): void {
    const { registry, log } = this.#context;
    const pid = this.rootPid();
    if (pid === undefined) {
      log.error({ migration: this.id }, 'the restored process has ended already');
      return;
    }
    const { snapshot } = this.#request;
    const cell: Cell = {
      id: snapshot.cell,
      name: snapshot.name,
      pid,
      ticks: startTicks(pid) ?? 0,
      init: this.#init,
      link: this.#link,
      addresses: snapshot.addresses,
      side: this.#entries.length > 0 ? this.#side : 0,
      labels: this.#labels,
      flows: this.#entries,
      peers: this.#announcements.map((one) => one.keys()),
    };
    registry.put(cell);
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
    const late = sleep(timeoutMs, undefined, { ref: false });
    await Promise.race([Promise.all(this.#announcements.map((one) => one.acknowledged)), late]);
    this.#register();
    return {
      silent: this.#announcements.filter((one) => !one.isAcknowledged).map(({ peer }) => peer),
      flip_ms: this.#announcements.flatMap((one) => one.roundTripMs ?? []),
    };
  }

  /** The image is no longer needed, and neither is this record. */
  end(): void {
    rmSync(this.#directory, { recursive: true, force: true });
    this.#stage = 'ended';
  }

  /** Before commit: nothing of the cell remains here. CRIU and what it restored live in its PID namespace, and end with it. */
  async undo(): Promise<void> {
    if (this.#stage === 'committed' || this.#stage === 'running')
      throw new OsmosisError('ABORTED', 'the process runs here already', { owner: 'destination' });
    const { datapath, labels } = this.#context;
    await this.#sockets?.drop();
    if (this.#link !== undefined) await destroyLink(this.#link.name);
    if (this.#init !== undefined) await destroyNamespaces(this.#init);
    await datapath.removeFlows(this.#entries);
    if (this.#entries.length > 0) await datapath.removeSide(this.#side);
    await datapath.removeIfEmpty();
    labels.release(
      this.#labels.map(({ protocol, wire }): { protocol: Protocol; port: number } => ({
        protocol,
        port: wire.port,
      })),
    );
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
