/**
 * A host that moves: keeps the connections of its cells when this host changes its address. Their sockets go on with the old
 * one, which from then on is a virtual endpoint; their peers are told by a MOVE under keys that were exchanged before.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { execa } from 'execa';
import { type Flow, flowKey } from '../address.ts';
import type { Cell } from '../cell/registry.ts';
import type { AgentContext } from '../context.ts';
import { messageOf, OsmosisError } from '../error.ts';
import { type Route, routeTo } from '../host/routes.ts';
import { socketIndex } from '../proc/socket-index.ts';
import { inetSockets, socketReader } from '../proc/sockets.ts';
import { startTicks } from '../proc/tree.ts';
import { Store } from '../state/store.ts';
import { Turns } from '../turns.ts';
import { DrawnLabels } from './drawn-labels.ts';
import { Entrances } from './entrances.ts';
import { Lane, type LaneRecord } from './lane.ts';
import { checkLeavable } from './leaving.ts';
import {
  hasMoved,
  isPlain,
  type KeptFlow,
  parseGoing,
  parseUsable,
  type Wanted,
  wireAddress,
} from './places.ts';
import { isRegistered } from './registered.ts';
import { peerOf, Registration } from './registration.ts';
import { AddressWatch } from './watch.ts';

/** New connections are looked for, and ended ones, this often. */
const LOOK_MS = 1_000;
/** Looking takes this part of a core at most. */
const LOOKING_SHARE = 1 / 10;
const REST_MS_MAX = 10_000;
/** A device that was attached is believed to be so for this long: it may be another one by the same name. */
const ATTACHED_MS_MAX = 2_000;
/** Addresses are read this often, whatever is told of them. */
const ADDRESSES_MS_MAX = 5_000;
const COMMAND_MS_MAX = 5_000;
/** `leave` waits so long for the peers to acknowledge. */
const LEAVE_MS_MAX = 10_000;
const LEAVE_LOOK_MS = 20;
/** A flow is forgotten when its socket is missing in this many looks in a row. */
const LOOKS_MISSING_MAX = 2;

export class HostMoves {
  readonly #context: AgentContext;
  readonly #store: Store<LaneRecord>;
  readonly #lanes = new Map<string, Lane>();
  readonly #turns = new Turns();
  readonly #watch: AddressWatch;
  readonly #registration: Registration;
  readonly #entrances: Entrances;
  readonly #missing = new WeakMap<KeptFlow, number>();
  /** Attached, since which removal of the datapath, and when. */
  readonly #devices = new Map<string, { removals: number; at: number }>();
  readonly #labels: DrawnLabels;
  #timer: NodeJS.Timeout | undefined;
  #usable: ReadonlySet<string> = new Set();
  /** Of those: what flows are to leave. */
  #going: ReadonlySet<string> = new Set();
  #readAt = Number.NEGATIVE_INFINITY;
  #restUntil = 0;
  #looking = false;

  /** `retell`: tells those that follow a cell what its labels are now. */
  constructor(context: AgentContext, retell: (cell: Cell) => void) {
    this.#context = context;
    this.#entrances = new Entrances({ ...context, retell });
    this.#labels = new DrawnLabels(context.labels, (cell) => this.#cellOf(cell)?.link === undefined);
    this.#store = new Store(`${context.paths.run}/lanes`);
    this.#watch = new AddressWatch(() => this.#changed());
    const isKept = (cell: string, peer: string) =>
      (this.#lanes.get(laneKey({ cell, peer }))?.flows.size ?? 0) > 0;
    this.#registration = new Registration(
      { ...context, isKept },
      (cell, peer, flows) => void this.#inTurn(() => this.#add(cell, peer, flows)),
      (cell, peer) => void this.#inTurn(async () => this.#lanes.get(laneKey({ cell, peer }))?.leaveAtHome()),
    );
  }

  /** Finds again what an agent before this one was at. */
  start(): void {
    for (const record of this.#store.all()) this.#lanes.set(laneKey(record), this.#laneOf(record));
    this.#labels.take(this.#lanes.values());
    for (const lane of this.#lanes.values()) lane.resume();
    this.#watch.start();
    this.#timer = setInterval(() => void this.#look(), LOOK_MS);
    void this.#look();
  }

  async stop(): Promise<void> {
    clearInterval(this.#timer);
    this.#watch.stop();
    this.#registration.stop();
    await this.#turns.idle();
  }

  /** @throws OsmosisError BUSY while a peer has not acknowledged this host's address: the cell's flows are held back so long. */
  checkSettled(id: string): void {
    const moving = this.#lanesOf(id).find(({ isMoving }) => isMoving);
    if (moving === undefined) return;
    throw new OsmosisError(
      'BUSY',
      `this host has another address, and the peer ${moving.peer} has not acknowledged it yet; nothing was touched. ` +
        'Try again in a moment; osmosis keep says when it has.',
      { phase: 'plan' },
    );
  }

  /** What is kept of one cell, and what not, by peer. */
  describe(cell: string): { peer: string; flows: number; away: number; told: boolean; agent: boolean }[] {
    const lanes = [...this.#lanes.values()].filter((lane) => lane.cell === cell && lane.flows.size > 0);
    const silent = this.#registration
      .silent(cell)
      .filter((peer) => lanes.every((lane) => lane.peer !== peer));
    return [
      ...lanes.map(({ peer, flows, isMoving }) => ({
        peer,
        flows: flows.size,
        away: [...flows.values()].filter((flow) => !isPlain(flow)).length,
        told: !isMoving,
        agent: true,
      })),
      ...silent.map((peer) => ({ peer, flows: 0, away: 0, told: true, agent: false })),
    ];
  }

  /**
   * Whether these flows of the cell with one peer can be moved without a word to it before the MOVE: it holds all of them for
   * the cell, in the very pair, and has said so a moment ago.
   */
  isRegistered(cell: string, peer: string, flows: readonly Flow[]): boolean {
    const lane = this.#lanes.get(laneKey({ cell, peer }));
    const keys = this.#cellOf(cell)?.peers.find(({ address }) => address === peer);
    if (lane === undefined || lane.isMoving || keys?.peerPublicKey === undefined) return false;
    // A flow is the claim of the cell that has shown it last, and of no other.
    const isShared = [...this.#lanes.values()].some(
      (other) => other.cell !== cell && flows.some((flow) => other.flows.has(flowKey(flow))),
    );
    const standing = { claimed: new Set(lane.flows.keys()), age_ms: this.#registration.ageOf(cell, peer) };
    return !isShared && isRegistered(flows, standing);
  }

  #laneOf(record: Omit<LaneRecord, 'side' | 'flows'> & Partial<LaneRecord>): Lane {
    return new Lane(
      {
        ...this.#context,
        save: (lane) => this.#save(lane),
        settled: () => this.#changed(),
      },
      record,
    );
  }

  #save(lane: Lane): void {
    if (this.#lanes.get(laneKey(lane)) === lane) this.#store.put(fileName(lane), lane.record());
  }

  /** What a peer has let a cell claim. If the other end has come there from another host, its flow is in that one's lane still. */
  async #add(id: string, peer: string, flows: readonly KeptFlow[]): Promise<void> {
    const cell = this.#cellOf(id);
    if (cell === undefined) return;
    const key = laneKey({ cell: id, peer });
    const lane = this.#lanes.get(key) ?? this.#laneOf({ cell: id, peer });
    this.#lanes.set(key, lane);
    await lane.take(cell, flows);
    for (const other of this.#lanesOf(id)) if (other !== lane) other.leave(flows);
    this.#changed();
  }

  /** Addresses, routes, or what has been told of them. */
  #changed(): void {
    if (this.#isIdle) return;
    void this.#inTurn(async () => {
      const before = this.#usable;
      await this.#readAddresses();
      for (const lane of this.#lanes.values()) await this.#follow(lane);
      await this.#followEntrances();
      // Links come and go with cells: only another address means that other hosts may be reached by another device.
      const isSame =
        before.size === this.#usable.size && [...before].every((address) => this.#usable.has(address));
      if (!isSame) await this.#context.peerSide.reroute();
    });
  }

  async #inTurn(step: () => Promise<void>): Promise<void> {
    await this.#turns.run(step).catch((error: unknown) => {
      this.#context.log.warn(
        { error: messageOf(error) },
        'looking after a change of address failed; it is tried again',
      );
    });
  }

  async #look(): Promise<void> {
    if (this.#looking || performance.now() < this.#restUntil || this.#isIdle) return;
    this.#looking = true;
    const before = process.cpuUsage();
    await this.#inTurn(async () => {
      // It is told of changes: this is for those that it is not told of.
      if (performance.now() - this.#readAt > ADDRESSES_MS_MAX) await this.#readAddresses();
      await this.#forgetEnded();
      for (const lane of this.#lanes.values()) await this.#follow(lane);
      await this.#followEntrances();
      this.#register();
    });
    this.#looking = false;
    const { user, system } = process.cpuUsage(before);
    const rest_ms = (user + system) / 1_000 / LOOKING_SHARE;
    this.#restUntil = performance.now() + Math.min(rest_ms - LOOK_MS, REST_MS_MAX);
  }

  /** Nothing is kept here, and nothing left of what was. */
  get #isIdle(): boolean {
    const { kept, registry } = this.#context;
    return this.#lanes.size === 0 && kept.all.size === 0 && registry.all().length === 0;
  }

  async #readAddresses(): Promise<void> {
    const { kept } = this.#context;
    this.#readAt = performance.now();
    const { stdout, failed, shortMessage } = await execa('ip', ['-json', 'addr', 'show'], {
      reject: false,
      timeout: COMMAND_MS_MAX,
    });
    if (failed) throw new Error(shortMessage);
    this.#usable = parseUsable(stdout, kept.all);
    kept.forgetLeft(this.#usable);
    this.#going = new Set([...parseGoing(stdout, kept.all), ...kept.left]);
    // A cell that has just gone was perhaps one with addresses of another host.
    const isOfHost = (cell: Cell | undefined) => cell !== undefined && cell.link === undefined;
    const lanes = [...this.#lanes.values()].filter(({ cell }) => isOfHost(this.#cellOf(cell)));
    const bound = lanes.flatMap(({ flows }) => [...flows.values()]).filter(({ isLoose }) => !isLoose);
    await kept.keep(new Set(bound.map(({ local }) => local.address)), this.#usable);
  }

  #register(): void {
    const { registry } = this.#context;
    // Those at home share one namespace, whose tables may be long.
    const here = { usable: this.#usable, socketsOf: socketReader() };
    for (const cell of registry.all()) {
      if (cell.kept === false || registry.isLocked(cell.id) || startTicks(cell.pid) !== cell.ticks) continue;
      const kept = this.#placed(cell);
      this.#registration.look(cell, kept, here);
      const isThere = new Set(kept.there);
      for (const { peer, isMoving, flows } of this.#lanesOf(cell.id)) {
        const its = [...flows.values()].filter((flow) => isThere.has(flow));
        if (!isMoving) this.#registration.refresh(cell, peer, its);
      }
    }
  }

  /** Of the flows of its lanes those whose other ends are there still, and those that have gone elsewhere. */
  #placed(cell: Cell): { there: KeptFlow[]; elsewhere: KeptFlow[] } {
    const [there, elsewhere]: [KeptFlow[], KeptFlow[]] = [[], []];
    for (const { peer, flows } of this.#lanesOf(cell.id))
      for (const flow of flows.values())
        (peerOf(this.#context.peerSide, cell, flow).address === peer ? there : elsewhere).push(flow);
    return { there, elsewhere };
  }

  /** Tells the peer of what is at another place now. */
  async #follow(lane: Lane): Promise<void> {
    const cell = this.#cellOf(lane.cell);
    lane.nudge();
    if (cell === undefined || lane.isMoving || this.#context.registry.isLocked(cell.id)) return;
    const isInside = cell.link !== undefined;
    const flows = [...lane.flows.values()];
    const here = { usable: this.#usable, going: this.#going, isInside, source: undefined };
    const isGone = ({ local, wireLocal }: KeptFlow) =>
      !this.#usable.has(wireLocal.address) && (isInside || !this.#usable.has(local.address));
    if (!flows.some((flow) => isGone(flow) || isGoing(flow, here) || hasMoved(flow, here))) return;
    const route = await routeTo(lane.peer).catch(() => undefined);
    if (route === undefined) return;
    const wanted = { ...here, source: this.#sourceOf(route, lane.peer) };
    const moved = this.#labels.moved(lane.cell, flows, wanted);
    if (moved.length > 0) {
      await this.#attach(route.device);
      await lane.move(cell, moved, route);
    }
    this.#labels.release(this.#lanes.values());
  }

  /** New connections find its cells where it is now. */
  async #followEntrances(): Promise<void> {
    const { registry } = this.#context;
    const sourceTo = async (peer: string): Promise<string | undefined> => {
      const route = await routeTo(peer).catch(() => undefined);
      if (route === undefined) return undefined;
      const source = this.#sourceOf(route, peer);
      if (source !== undefined) await this.#attach(route.device);
      return source;
    };
    for (const cell of registry.all()) {
      if (registry.isLocked(cell.id)) continue;
      const moving = new Set(this.#lanesOf(cell.id).flatMap((lane) => (lane.isMoving ? [lane.peer] : [])));
      const isMoving = (peer: string) => moving.has(peer);
      await this.#entrances.follow(cell, { usable: this.#usable, sourceTo, isMoving });
    }
  }

  /** Asking whether a device is attached starts several programs: once, for all that leave by it. */
  async #attach(device: string): Promise<void> {
    const { datapath } = this.#context;
    const known = this.#devices.get(device);
    const isFresh = known !== undefined && performance.now() - known.at < ATTACHED_MS_MAX;
    if (isFresh && known.removals === datapath.removals) return;
    await datapath.attachDevice(device);
    this.#devices.set(device, { removals: datapath.removals, at: performance.now() });
  }

  /** A route may say to come from an address that is kept for its sockets only. */
  #sourceOf({ source }: Route, peer: string): string | undefined {
    const isSame = (address: string) => address.includes(':') === peer.includes(':');
    if (this.#usable.has(source) && !this.#going.has(source)) return source;
    return [...this.#usable].find((address) => isSame(address) && !this.#going.has(address));
  }

  /**
   * Flows leave these addresses of this host, while they work: their peers are told, and nothing is lost on the way. `undo`:
   * they may stay. Answers with the peers that have not acknowledged in time; they are told on.
   * @throws OsmosisError USAGE where one is no address of this host, or there is no other to go to; nothing is changed.
   */
  async leave(addresses: readonly string[], undo: boolean): Promise<string[]> {
    const { kept } = this.#context;
    await this.#turns.run(() => this.#readAddresses());
    if (!undo) checkLeavable(addresses, this.#usable, new Set([...this.#going, ...addresses]));
    for (const address of addresses) kept.leave(address, undo);
    const untold = () => [...this.#lanes.values()].filter((lane) => lane.isMoving || this.#isStaying(lane));
    this.#changed();
    for (const end = Date.now() + LEAVE_MS_MAX; Date.now() < end; ) {
      await this.#turns.idle();
      if (untold().length === 0) break;
      await sleep(LEAVE_LOOK_MS);
    }
    return [...new Set(untold().map(({ peer }) => peer))];
  }

  /** It has flows by an address that they are to leave. */
  #isStaying({ cell, flows }: Lane): boolean {
    const isInside = this.#cellOf(cell)?.link !== undefined;
    const here = { usable: this.#usable, going: this.#going, isInside, source: undefined };
    return [...flows.values()].some((flow) => isGoing(flow, here));
  }

  async #forgetEnded(): Promise<void> {
    const { registry } = this.#context;
    const isAtHome = ({ cell }: Lane) => this.#cellOf(cell)?.link === undefined;
    const sockets = [...this.#lanes.values()].some(isAtHome) ? inetSockets('self') : [];
    const own = socketIndex(sockets.filter(({ state }) => state !== 'time-wait' && state !== 'listen'));
    for (const lane of this.#lanes.values()) {
      const cell = this.#cellOf(lane.cell);
      if (cell === undefined) await this.#close(lane);
      else if (!registry.isLocked(cell.id)) await this.#dropEnded(lane, cell, own);
    }
    this.#labels.release(this.#lanes.values());
  }

  async #dropEnded(lane: Lane, cell: Cell, own: ReturnType<typeof socketIndex>): Promise<void> {
    // keeper.ts looks after the flows of a cell with a network of its own.
    const entered = new Set(cell.flows.map((flow) => flowKey(flow)));
    const isThere = (flow: KeptFlow) =>
      cell.link === undefined ? own.has(flow) : entered.has(flowKey(flow));
    const ended = [...lane.flows.values()].filter((flow) => {
      const missing = isThere(flow) ? 0 : (this.#missing.get(flow) ?? 0) + 1;
      if (missing === 0 || missing >= LOOKS_MISSING_MAX) this.#missing.delete(flow);
      else this.#missing.set(flow, missing);
      return missing >= LOOKS_MISSING_MAX;
    });
    if (ended.length > 0) await lane.drop(ended);
    if (lane.flows.size === 0) await this.#close(lane);
  }

  async #close(lane: Lane): Promise<void> {
    this.#lanes.delete(laneKey(lane));
    this.#registration.end(lane.cell, lane.peer);
    this.#store.remove(fileName(lane));
    await lane.close();
  }

  /** Undefined once it has ended, or lives elsewhere, or is not to be kept. */
  #cellOf(id: string): Cell | undefined {
    const { registry } = this.#context;
    const cell = registry.isRegistered(id) ? registry.get(id) : undefined;
    return cell?.kept === false ? undefined : cell;
  }

  #lanesOf(cell: string): Lane[] {
    return [...this.#lanes.values()].filter((lane) => lane.cell === cell);
  }
}

/** By an address that is to be left. */
function isGoing(flow: KeptFlow, { going = new Set(), ...here }: Wanted): boolean {
  return going.has(flow.wireLocal.address) && wireAddress(flow, { ...here, going }) === undefined;
}

function laneKey({ cell, peer }: Pick<LaneRecord, 'cell' | 'peer'>): string {
  return `${cell} ${peer}`;
}

function fileName({ cell, peer }: Pick<LaneRecord, 'cell' | 'peer'>): string {
  return `${cell}-${peer}`;
}
