/**
 * The datapath of one host: owns the pinned programs and maps. It is the only one that deletes from them or changes what
 * is there; the programs add the flows that rules are for (`refresh` says which).
 *
 * Nothing is loaded, mounted or attached before the first entry. Everything is pinned, so flows go on while no agent
 * runs; the next one adopts what it finds. `removeIfEmpty` leaves nothing behind.
 */
import { type Endpoint, flowKey } from '../address.ts';
import { OsmosisError } from '../error.ts';
import { Turns } from '../turns.ts';
import { type AttachedDevice, attach, attachedDevices, detach } from './attach.ts';
import { Batch } from './batch.ts';
import { deleteLine, type ProgramName, updateLine } from './bpftool.ts';
import { Fences } from './fences.ts';
import { halvesOf, putLocal, putRemote, remotePlace, removeLocal, removeRemote } from './halves.ts';
import { attachHeld, attachInside, describeInside } from './inside.ts';
import {
  decodeCounters,
  decodeRelayState,
  decodeTuple,
  encodeCell,
  encodeId,
  encodeSide,
  encodeTuple,
  type Tuple,
} from './layout.ts';
import { Loopback } from './loopback.ts';
import { checkSides, isEmpty, isViaLoopback, type Mirror, mirrorOf, needsLoopback } from './mirror.ts';
import type {
  Counters,
  FlowEntry,
  FlowId,
  Forward,
  LocalHalf,
  RelayState,
  RemoteHalf,
  RoomCounts,
  Side,
  WireSlot,
} from './model.ts';
import { dumpMap, isPinned, loadPins, programIds, removePins } from './pins.ts';
import { RoomBook } from './room-book.ts';
import { RuleBook } from './rule-book.ts';
import { checkRule, type DrawnLabel, type Rule } from './rules.ts';
import { type Run, runnerIn } from './run.ts';
import { clearSeen, type SeenMaps, watchPorts } from './seen.ts';
import { type Dump, EMPTY, readMaps, type Snapshot, soleValue } from './snapshot.ts';
import { type Change, full, keyOf, putFlow, removeFlow, SIDES_MAX } from './table.ts';

/** So many lines are written at once (10 ms): a flip never waits longer for the flows of another migration. */
const LINES_MAX = 500;

export type DatapathOptions = {
  /** A bpffs is mounted here while there are entries, unless the directory above is in one. No dots in its name. */
  readonly pinDir: string;
  /** osmosis.bpf.c, compiled. */
  readonly objectFile: string;
  /** Path of the network namespace that the devices are in; the process's own without it. */
  readonly netns?: string;
  /**
   * Where the programs begin to draw labels, asked at each loading; the first of a rule's without it. A label of before may
   * be known to a peer still, by a flow that has moved on from here.
   */
  readonly firstDraw?: () => number;
  readonly log?: (message: string) => void;
};

export class Datapath {
  readonly #options: DatapathOptions;
  readonly #run: Run;
  readonly #batch = new Batch();
  readonly #loopback: Loopback;
  readonly #rules: RuleBook;
  readonly #rooms: RoomBook;
  readonly #fences: Fences;
  readonly #dump: Dump;
  #mirror: Mirror | undefined;
  /** Which program of ours an id is of: for as long as they are loaded. */
  #programs: ReadonlyMap<number, ProgramName> | undefined;
  #removals = 0;
  #isExpected = false;
  /** Calls that are under way and count on the programs being loaded. */
  #users = 0;
  /** Watches of UDP ports: one at a time, for they share a map. */
  readonly #watching = new Turns();
  /** Loading, attaching, removing: one at a time. */
  readonly #turns = new Turns();
  /** Removing what no flow has: one at a time, for each removes what it has read. */
  readonly #removing = new Turns();

  private constructor(options: DatapathOptions) {
    this.#options = options;
    this.#run = runnerIn(options.netns);
    const { pinDir } = options;
    this.#loopback = new Loopback(this.#run, pinDir);
    this.#dump = (map, signal) => dumpMap(this.#run, pinDir, map, signal);
    const access = {
      pinDir,
      dump: this.#dump,
      write: (lines: readonly string[], signal?: AbortSignal) => this.#write(lines, signal),
    };
    this.#rooms = new RoomBook({ ...access, run: this.#run, putSide: (side) => this.putSide(side) });
    this.#fences = new Fences(access);
    this.#rules = new RuleBook({
      ...access,
      settle: () => this.#batch.run([]),
      removeFlows: (mirror, flows) => this.#remove(mirror, flows),
      aroundLoopback: (mirror, enters, change) => this.#aroundLoopback(mirror, enters, change),
    });
  }

  /**
   * Adopts what an earlier agent has left pinned, or removes it where it holds no entry. OsmosisError DATAPATH where it
   * has entries and is of a version with other layouts.
   */
  static async open(options: DatapathOptions): Promise<Datapath> {
    const datapath = new Datapath(options);
    if (await isPinned(options.pinDir)) {
      if (isEmpty(await datapath.#adopt())) await datapath.removeIfEmpty();
      else await datapath.#use(() => clearSeen(datapath.#seenMaps()));
    }
    return datapath;
  }

  /** Ends the helper process; everything in the kernel stays and works on. */
  async close(): Promise<void> {
    await this.#turns.idle();
    await this.#batch.close();
  }

  /** Rises when everything was taken away: devices that were attached before are so no longer. */
  get removals(): number {
    return this.#removals;
  }

  /** `from_wire` and `to_wire` on a device that flows come and go by; no harm where they are there. */
  async attachDevice(name: string, signal?: AbortSignal): Promise<void> {
    await this.#attach(name, ['from_wire', 'to_wire'], signal);
  }

  /** `from_cell` on the host end of a cell's veth. It goes with the veth. */
  async attachCell(name: string, signal?: AbortSignal): Promise<void> {
    await this.#attach(name, ['from_cell'], signal);
  }

  /** `from_queue` on the far end of the queue of a process that comes home. It goes with the queue. */
  async attachQueue(name: string, signal?: AbortSignal): Promise<void> {
    await this.#attach(name, ['from_queue'], signal);
  }

  /**
   * What a cell with flows of `via` LOOPBACK needs inside, where `netns` is the path of its network namespace and
   * `scope` the host end of its veth. It goes with the namespace; `removeInside` takes out what is left here.
   */
  async attachInside(netns: string, scope: number, signal?: AbortSignal): Promise<void> {
    await this.#inside(netns, scope, attachInside, signal);
  }

  /** What a cell needs inside while it has flows with a suspended one; as attachInside. */
  async attachHeld(netns: string, scope: number, signal?: AbortSignal): Promise<void> {
    await this.#inside(netns, scope, attachHeld, signal);
  }

  async #inside(
    netns: string,
    scope: number,
    put: typeof attachInside,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    const { pinDir } = this.#options;
    const run = runnerIn(netns);
    const enter = async ({ insides }: Mirror) => {
      const inside = await describeInside(run, scope, [...insides.values()], signal);
      insides.set(scope, inside);
      await this.#write([updateLine(pinDir, 'cells', encodeId(inside.id), encodeCell(inside))]);
      await put(run, pinDir, inside, signal);
    };
    await this.#use((mirror) => this.#turns.run(() => enter(mirror)));
  }

  /** When the cell, or the last of those flows, is gone: packets for them stay inside from now on. */
  async removeInside(scope: number): Promise<void> {
    await this.#ifLoaded(async ({ insides }) => {
      const inside = insides.get(scope);
      if (inside === undefined || !insides.delete(scope)) return;
      await this.#write([deleteLine(this.#options.pinDir, 'cells', encodeId(inside.id))]);
    });
  }

  /**
   * Enters flows, or replaces those of the same scope and virtual endpoints: the ways in of all filled slots, and the
   * way out. Their sides must be there. An abort leaves those that were written; removeFlows takes any of them out.
   * Where there have been rules, the flows that they have created are read first, so that one that is replaced goes whole.
   */
  async putFlows(entries: readonly FlowEntry[], signal?: AbortSignal): Promise<void> {
    await this.#use(async (mirror) => {
      if (entries.length > 0) await this.#readCreated(mirror, signal);
      for (const { localSide, remoteSide } of entries) checkSides(mirror, [localSide, remoteSide]);
      const change = () => this.#change(mirror, entries, (entry) => putFlow(mirror.table, entry), signal);
      await this.#aroundLoopback(mirror, entries.some(isViaLoopback), change);
    });
  }

  /** What the owners of local ends say of their flows. The sides must be there. */
  async putLocals(halves: readonly LocalHalf[]): Promise<void> {
    await this.#use(async (mirror) => {
      if (halves.length > 0) await this.#readCreated(mirror);
      for (const { localSide } of halves) checkSides(mirror, [localSide]);
      const change = () => this.#change(mirror, halves, (half) => putLocal(mirror.table, half));
      await this.#aroundLoopback(mirror, halves.some(isViaLoopback), change);
    });
  }

  /**
   * As putLocals, but packets that come to where the local ends were before are let in on: answers with those wire tuples,
   * for `removeWays`. Nothing else remembers them.
   */
  async moveLocals(halves: readonly LocalHalf[]): Promise<Tuple[]> {
    const former: Tuple[] = [];
    await this.#use(async (mirror) => {
      if (halves.length > 0) await this.#readCreated(mirror);
      for (const { localSide } of halves) checkSides(mirror, [localSide]);
      const staying = (half: LocalHalf): Change[] => {
        const changes = putLocal(mirror.table, half);
        const isFormer = ({ map, value }: Change) => map === 'ingress' && value === undefined;
        const ways = changes.filter(isFormer).map(({ key }) => decodeTuple(key));
        for (const way of ways) mirror.table.former.add(flowKey(way));
        former.push(...ways);
        return changes.filter((change) => !isFormer(change));
      };
      const change = () => this.#change(mirror, halves, staying);
      await this.#aroundLoopback(mirror, halves.some(isViaLoopback), change);
    });
    return former;
  }

  /** Those that a flow has by now stay. */
  async removeWays(former: readonly Tuple[]): Promise<void> {
    if (former.length === 0) return;
    await this.#ifLoaded(async ({ table, changed }) => {
      // This agent may have come after the one that noted them, or have lost them with all that it knew.
      const isKnown = former.every((way) => table.former.has(flowKey(way)) || table.wires.has(flowKey(way)));
      const there = isKnown ? undefined : new Set((await this.#dump('ingress')).map(({ key }) => hexOf(key)));
      const isThere = (way: Tuple) => there?.has(hexOf(encodeTuple(way))) ?? table.former.has(flowKey(way));
      const ways = former.filter((way) => isThere(way) && !table.wires.has(flowKey(way)));
      for (const way of ways) {
        table.former.delete(flowKey(way));
        for (const keys of changed) keys.add(flowKey(way));
      }
      await this.#write(ways.map((way) => deleteLine(this.#options.pinDir, 'ingress', encodeTuple(way))));
    });
  }

  /** What is known of remote ends. The sides must be there. */
  async putRemotes(halves: readonly RemoteHalf[]): Promise<void> {
    await this.#use(async (mirror) => {
      if (halves.length > 0) await this.#readCreated(mirror);
      for (const { remoteSide } of halves) checkSides(mirror, [remoteSide]);
      await this.#change(mirror, halves, (half) => putRemote(mirror.table, half));
    });
  }

  /** A flow is gone with its last half. */
  async removeLocals(ids: readonly FlowId[]): Promise<void> {
    if (ids.length === 0) return;
    await this.#ifLoaded(async (mirror) => {
      const change = () => this.#change(mirror, ids, (id) => removeLocal(mirror.table, id));
      await this.#aroundLoopback(mirror, false, change);
    });
  }

  async removeRemotes(ids: readonly FlowId[]): Promise<void> {
    if (ids.length === 0) return;
    await this.#ifLoaded((mirror) => this.#change(mirror, ids, (id) => removeRemote(mirror.table, id)));
  }

  /** What owners of local ends have said so far of these flows: undefined where there is nothing. */
  async locals(ids: readonly FlowId[]): Promise<(LocalHalf | undefined)[]> {
    const halves = await this.#ifLoaded(async (mirror) => {
      await this.#readCreated(mirror);
      return ids.map((id) => halvesOf(mirror.table, id).local);
    });
    return halves ?? ids.map(() => undefined);
  }

  /** Where packets of each flow go now: undefined where nobody follows its remote end. */
  async places(ids: readonly FlowId[]): Promise<(WireSlot | undefined)[]> {
    const places = await this.#ifLoaded(async (mirror) => {
      await this.#readCreated(mirror);
      return ids.map((id) => remotePlace(mirror.table, mirror.sides, id));
    });
    return places ?? ids.map(() => undefined);
  }

  /** The flows that this host relays, created ones included, and how far they have come. */
  async relays(signal?: AbortSignal): Promise<RelayState[]> {
    const elements = (await this.#ifLoaded(() => this.#dump('relays', signal))) ?? [];
    return elements.map((element) => decodeRelayState(element.key, soleValue(element)));
  }

  /** Takes flows out, whole, by scope and virtual endpoints; those that are not there are no error. */
  async removeFlows(entries: readonly FlowId[], signal?: AbortSignal): Promise<void> {
    if (entries.length === 0) return;
    await this.#ifLoaded((mirror) => this.#remove(mirror, entries, signal));
  }

  /** Enters rules, or replaces those with the same key: flows that a rule has created stay as they are. */
  async putRules(rules: readonly Rule[], signal?: AbortSignal): Promise<void> {
    if (rules.length === 0) return;
    for (const rule of rules) checkRule(rule);
    await this.#use((mirror) => this.#rules.put(mirror, rules, signal));
  }

  /** Rules that are not there are no error. The flows that they have created stay: see removeCreated. */
  async removeRules(rules: readonly Rule[], signal?: AbortSignal): Promise<void> {
    if (rules.length === 0) return;
    await this.#ifLoaded((mirror) => this.#rules.remove(mirror, rules, signal));
  }

  /** The rules that are there: only the agent writes them, so the kernel need not be asked. */
  async rules(): Promise<Rule[]> {
    const rules = await this.#ifLoaded(async (mirror) => [...mirror.rules.values()].map(({ rule }) => rule));
    return rules ?? [];
  }

  /** There have been rules, so there may be flows that they have created. */
  get isRuled(): boolean {
    return this.#mirror?.ruled ?? false;
  }

  /** The flows that rules have created, read afresh; from here on removeFlows and putFlows know them. */
  async refresh(signal?: AbortSignal): Promise<FlowEntry[]> {
    const created = await this.#ifLoaded(async (mirror) => {
      await this.#rules.refresh(mirror, signal);
      return [...mirror.table.flows.values()].filter(({ rule }) => rule !== undefined);
    });
    return created ?? [];
  }

  /** Created flows of UDP that nothing has passed by for `msMax`, either way: nobody says goodbye there. */
  async idle(msMax: number, signal?: AbortSignal): Promise<FlowEntry[]> {
    return (await this.#ifLoaded(() => this.#rules.idle(msMax, signal))) ?? [];
  }

  /**
   * Removes the created flows that `which` is true of (created.ts has some), and what no flow has any more: their ways in,
   * and the labels that were drawn for them, which it answers with. Rules may create as many anew. Take the rules out
   * first where no flow is to come back.
   */
  async removeCreated(which: (flow: FlowEntry) => boolean, signal?: AbortSignal): Promise<DrawnLabel[]> {
    const remove = (mirror: Mirror) => this.#rules.removeCreated(mirror, which, signal);
    return await this.#removing.run(async () => (await this.#ifLoaded(remove)) ?? []);
  }

  /** The flip: one element, so all flows of the side switch between two packets. */
  async putSide(side: Side): Promise<void> {
    await this.#use(async ({ sides, rooms }) => {
      if (side.id === 0) throw new OsmosisError('DATAPATH', 'a side needs an id other than 0; this is a bug');
      if (!sides.has(side.id) && sides.size >= SIDES_MAX) throw full(`${SIDES_MAX} sides`);
      sides.set(side.id, side);
      const value = encodeSide(side, rooms.get(side.id)?.far);
      await this.#write([updateLine(this.#options.pinDir, 'sides', encodeId(side.id), value)]);
    });
  }

  /** Remove the side's flows first: packets of a flow whose side is missing are dropped. */
  async removeSide(id: number): Promise<void> {
    await this.#ifLoaded(async (mirror) => {
      if (!mirror.sides.delete(id)) return;
      await this.#write([deleteLine(this.#options.pinDir, 'sides', encodeId(id))]);
      await this.#rooms.remove(mirror, id);
    });
  }

  /**
   * Makes a room for the datagrams of a side: they wait there from `putSide` with `waits` on, also while no agent runs.
   * Answers whether it is there; false where this host has ROOMS_MAX of them.
   */
  async openRoom(side: number): Promise<boolean> {
    return await this.#use((mirror) => this.#rooms.open(mirror, side));
  }

  hasRoom(side: number): boolean {
    return this.#mirror?.rooms.has(side) ?? false;
  }

  /**
   * Lets the datagrams of a side go on, in the order in which they came, and those that come meanwhile after them; then the
   * side `waits` no more and the room is gone. Answers with what has become of them; undefined where there was no room.
   */
  async releaseRoom(side: number): Promise<RoomCounts | undefined> {
    return await this.#ifLoaded((mirror) => this.#rooms.release(mirror, side));
  }

  /** Drops every SYN for these TCP endpoints; `::` means any address, `0.0.0.0` any of IPv4. The client tries again. */
  async fenceListeners(endpoints: readonly Endpoint[], signal?: AbortSignal): Promise<void> {
    await this.#use((mirror) => this.#fences.raise(mirror, endpoints, signal));
  }

  async unfenceListeners(endpoints: readonly Endpoint[], signal?: AbortSignal): Promise<void> {
    if (endpoints.length === 0) return;
    await this.#ifLoaded((mirror) => this.#fences.lower(mirror, endpoints, signal));
  }

  /** Entered before the side of their flows is fenced, taken out after it. */
  async putForwards(forwards: readonly Forward[], signal?: AbortSignal): Promise<void> {
    await this.#use((mirror) => this.#fences.forward(mirror, forwards, signal));
  }

  async removeForwards(forwards: readonly Forward[], signal?: AbortSignal): Promise<void> {
    if (forwards.length === 0) return;
    await this.#ifLoaded((mirror) => this.#fences.endForward(mirror, forwards, signal));
  }

  /**
   * The flows of datagrams that come to and go from these UDP ports of this host, by these devices, for `ms`. Whoever
   * calls this calls removeIfEmpty after it.
   */
  async watch(
    ports: readonly number[],
    devices: readonly string[],
    ms: number,
    signal: AbortSignal,
  ): Promise<Tuple[]> {
    return await this.#watching.run(async () => {
      signal.throwIfAborted();
      return await this.#use(async () => {
        for (const device of devices) await this.attachDevice(device, signal);
        return await watchPorts(this.#seenMaps(), ports, ms, signal);
      });
    });
  }

  /** What the kernel has, read afresh; all empty where nothing is loaded. */
  async entries(signal?: AbortSignal): Promise<Snapshot> {
    return await this.#turns.run(async () => {
      if (!(await isPinned(this.#options.pinDir))) return EMPTY;
      return await this.#snapshot(signal);
    });
  }

  /** Packets since the programs were loaded; undefined where nothing is. Keeps nobody waiting: it takes no turn. */
  async counters(signal?: AbortSignal): Promise<Counters | undefined> {
    if (!(await isPinned(this.#options.pinDir))) return undefined;
    return decodeCounters((await this.#dump('counters', signal)).map(({ values }) => values));
  }

  /**
   * Whether entries may be wanted from one moment to the next, when loading takes too long: then the programs stay loaded, and
   * hang on no device, while there are none.
   */
  async expect(isExpected: boolean): Promise<void> {
    const isNew = isExpected !== this.#isExpected;
    this.#isExpected = isExpected;
    if (isExpected) await this.#use(async () => undefined);
    else if (isNew) await this.removeIfEmpty();
  }

  /**
   * Where no flow, side, rule or listener is left: detaches, unpins and unloads everything and unmounts the bpffs. Answers
   * whether nothing of ours is there any more.
   */
  async removeIfEmpty(signal?: AbortSignal): Promise<boolean> {
    const { pinDir } = this.#options;
    return await this.#turns.run(async () => {
      if (await isPinned(pinDir)) {
        const mirror = this.#mirror ?? (await this.#adopt());
        if (!isEmpty(mirror) || (mirror.ruled && !(await this.#isFlowless(signal)))) return false;
        if (this.#users > 0) return false;
        // Before anything else is awaited: whoever comes from here on waits for its turn and loads anew.
        if (!this.#isExpected || mirror.ruled) this.#mirror = undefined;
        this.#removals += 1;
        for (const device of await this.#devices(signal)) {
          await detach(this.#run, pinDir, device, signal);
        }
        await this.#loopback.restore();
        if (this.#mirror !== undefined) return false;
      }
      this.#mirror = undefined;
      this.#programs = undefined;
      await this.#batch.close();
      await removePins(this.#run, pinDir, signal);
      this.#options.log?.(`datapath removed from ${pinDir}`);
      return true;
    });
  }

  #seenMaps(): SeenMaps {
    const { pinDir } = this.#options;
    return {
      pinDir,
      write: (lines) => this.#write(lines),
      dump: (map) => this.#dump(map),
    };
  }

  async #attach(name: string, programs: readonly ProgramName[], signal?: AbortSignal): Promise<void> {
    await this.#use(() =>
      this.#turns.run(async () =>
        attach(this.#run, this.#options.pinDir, name, programs, await this.#devices(signal), signal),
      ),
    );
  }

  /** In a turn, with the programs loaded. */
  async #devices(signal?: AbortSignal): Promise<AttachedDevice[]> {
    const ids = this.#programs ?? (await programIds(this.#run, this.#options.pinDir, signal));
    this.#programs = ids;
    return await attachedDevices(this.#run, ids, signal);
  }

  /** Runs what needs the programs: loads or adopts them first, and keeps removeIfEmpty away meanwhile. */
  async #use<T>(action: (mirror: Mirror) => Promise<T>): Promise<T> {
    return await this.#counted(async () =>
      action(this.#mirror ?? (await this.#turns.run(() => this.#load()))),
    );
  }

  /** As #use, but where nothing is loaded nothing is done: to load takes 0.3 s of a core. */
  async #ifLoaded<T>(action: (mirror: Mirror) => Promise<T>): Promise<T | undefined> {
    const loaded = async () => ((await isPinned(this.#options.pinDir)) ? await this.#load() : undefined);
    return await this.#counted(async () => {
      const mirror = this.#mirror ?? (await this.#turns.run(loaded));
      return mirror === undefined ? undefined : await action(mirror);
    });
  }

  async #counted<T>(action: () => Promise<T>): Promise<T> {
    this.#users += 1;
    try {
      return await action();
    } finally {
      this.#users -= 1;
    }
  }

  async #load(): Promise<Mirror> {
    if (this.#mirror !== undefined) return this.#mirror;
    const { pinDir, objectFile, firstDraw, log } = this.#options;
    const found = await isPinned(pinDir);
    this.#programs = undefined;
    if (!found) await loadPins(this.#run, pinDir, objectFile);
    this.#mirror = found ? await this.#adopt() : mirrorOf(EMPTY);
    // Started now, so that the flip does not wait for it.
    const draws = found || firstDraw === undefined ? [] : [firstDraw()];
    await this.#batch.run(draws.map((draw) => updateLine(pinDir, 'spent', encodeId(0), encodeId(draw))));
    log?.(`datapath ${found ? 'adopted from' : 'loaded to'} ${pinDir}`);
    return this.#mirror;
  }

  async #adopt(): Promise<Mirror> {
    return mirrorOf(await readMaps(this.#run, this.#options.pinDir));
  }

  /** Takes what rules have created into the mirror, where there have been rules. */
  async #readCreated(mirror: Mirror, signal?: AbortSignal): Promise<void> {
    if (mirror.ruled) await this.#rules.refresh(mirror, signal);
  }

  async #isFlowless(signal?: AbortSignal): Promise<boolean> {
    return (await this.#dump('egress', signal)).length === 0;
  }

  async #snapshot(signal?: AbortSignal): Promise<Snapshot> {
    const [maps, devices] = await Promise.all([
      readMaps(this.#run, this.#options.pinDir, signal),
      this.#devices(signal),
    ]);
    return { ...maps, devices };
  }

  async #aroundLoopback(mirror: Mirror, enters: boolean, change: () => Promise<void>): Promise<void> {
    await this.#loopback.around(enters, change, () => needsLoopback(mirror));
  }

  async #remove(mirror: Mirror, flows: readonly FlowId[], signal?: AbortSignal): Promise<void> {
    const change = () => this.#change(mirror, flows, (flow) => removeFlow(mirror.table, flow), signal);
    await this.#aroundLoopback(mirror, false, change);
  }

  /** Changes mirror and kernel a piece at a time: a piece that is in the mirror is being written. */
  async #change<T extends FlowId>(
    mirror: Mirror,
    entries: readonly T[],
    changesOf: (entry: T) => Change[],
    signal?: AbortSignal,
  ): Promise<void> {
    const { pinDir } = this.#options;
    const lines: string[] = [];
    try {
      for (const entry of entries) {
        for (const changed of mirror.changed) changed.add(keyOf(entry));
        lines.push(...changesOf(entry).map((change) => lineOf(pinDir, change)));
        if (lines.length < LINES_MAX) continue;
        await this.#write(lines.splice(0), signal);
      }
    } finally {
      if (lines.length > 0) await this.#write(lines);
    }
  }

  /** On a failure nobody knows what was done: the kernel is asked. */
  async #write(lines: readonly string[], signal?: AbortSignal): Promise<void> {
    if (lines.length === 0) return;
    try {
      await this.#batch.run(lines);
    } catch (error) {
      this.#mirror = undefined;
      throw error;
    }
    if (signal?.aborted === true) {
      throw new OsmosisError('DATAPATH', 'aborted while flows were entered', { cause: signal.reason });
    }
  }
}

function hexOf(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex');
}

function lineOf(pinDir: string, { map, key, value }: Change): string {
  return value === undefined ? deleteLine(pinDir, map, key) : updateLine(pinDir, map, key, value);
}
