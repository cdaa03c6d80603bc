/**
 * The datapath of one host: owns the pinned programs and maps. It is the only one that deletes from them or changes what
 * is there; the programs add the flows that rules are for (`refresh` says which).
 *
 * Nothing is loaded, mounted or attached before the first entry. Everything is pinned, so flows go on while no agent
 * runs; the next one adopts what it finds. `removeIfEmpty` leaves nothing behind.
 */
import { type Endpoint, endpointText } from '../address.ts';
import { OsmosisError } from '../error.ts';
import { type AttachedDevice, attach, attachedDevices, detach } from './attach.ts';
import { Batch } from './batch.ts';
import { deleteLine, type Element, type MapName, type ProgramName, updateLine } from './bpftool.ts';
import {
  adoptCreated,
  decodeLabels,
  decodeSpent,
  freeNumber,
  newLimits,
  orphans,
  type Reading,
  unusedLabels,
} from './created.ts';
import { halvesOf, putLocal, putRemote, remotePlace, removeLocal, removeRemote } from './halves.ts';
import { attachInside, describeInside } from './inside.ts';
import {
  decodeCell,
  decodeCounters,
  decodeEgress,
  decodeForward,
  decodeListener,
  decodeSide,
  encodeCell,
  encodeForwardKey,
  encodeForwardValue,
  encodeId,
  encodeListener,
  encodeSide,
  LAYOUT,
  type Tuple,
} from './layout.ts';
import { Loopback } from './loopback.ts';
import {
  type Counters,
  type FlowEntry,
  type FlowId,
  type Forward,
  type Inside,
  LOOPBACK,
  type LocalHalf,
  type RemoteHalf,
  type Side,
  type WireSlot,
} from './model.ts';
import { dumpMap, isPinned, loadPins, removePins } from './pins.ts';
import {
  checkRoom,
  checkRule,
  type DrawnLabel,
  decodeRule,
  encodeLabel,
  encodeOwner,
  encodeRuleKey,
  encodeRuleValue,
  mapOf,
  type NumberedRule,
  RULE_MAPS,
  RULES_MAX,
  type Rule,
  type RuleMap,
  sideOf,
} from './rules.ts';
import { type Run, runnerIn } from './run.ts';
import { clearSeen, type SeenMaps, watchPorts } from './seen.ts';
import {
  type Change,
  createTable,
  type FlowTable,
  FORWARDS_MAX,
  full,
  keyOf,
  LISTENERS_MAX,
  putFlow,
  removeFlow,
  SIDES_MAX,
} from './table.ts';

/** So many lines are written at once (10 ms): a flip never waits longer for the flows of another migration. */
const LINES_MAX = 500;

export type DatapathOptions = {
  /** A bpffs is mounted here while there are entries, unless the directory above is in one. No dots in its name. */
  readonly pinDir: string;
  /** osmosis.bpf.c, compiled. */
  readonly objectFile: string;
  /** Path of the network namespace that the devices are in; the process's own without it. */
  readonly netns?: string;
  readonly log?: (message: string) => void;
};

/** Everything that is in the kernel. */
export type Snapshot = {
  readonly flows: readonly FlowEntry[];
  readonly sides: readonly Side[];
  /** Listening TCP endpoints whose new connections are dropped. */
  readonly listeners: readonly Endpoint[];
  readonly forwards: readonly Forward[];
  readonly insides: readonly Inside[];
  readonly rules: readonly NumberedRule[];
  readonly counters: Counters;
  readonly devices: readonly AttachedDevice[];
};

/** What the maps hold, as far as the agent knows. */
type Mirror = {
  readonly table: FlowTable;
  readonly sides: Map<number, Side>;
  readonly listeners: Map<string, Endpoint>;
  readonly forwards: Map<string, Forward>;
  /** By scope. */
  readonly insides: Map<number, Inside>;
  readonly rules: Map<string, NumberedRule>;
  /** One for each reading under way: the flows, by `keyOf`, that the agent has changed since it began. */
  readonly changed: Set<Set<string>>;
  /** There have been rules: the kernel may have flows that are not in here. */
  ruled: boolean;
};

export class Datapath {
  readonly #options: DatapathOptions;
  readonly #run: Run;
  readonly #batch = new Batch();
  readonly #loopback: Loopback;
  #mirror: Mirror | undefined;
  #removals = 0;
  /** Calls that are under way and count on the programs being loaded. */
  #users = 0;
  /** Watches of UDP ports: one at a time, for they share a map. */
  #watching: Promise<unknown> = Promise.resolve();
  /** Loading, attaching, removing: one at a time. */
  #turn: Promise<unknown> = Promise.resolve();
  /** Removing what no flow has: one at a time, for each removes what it has read. */
  #removal: Promise<unknown> = Promise.resolve();

  private constructor(options: DatapathOptions) {
    this.#options = options;
    this.#run = runnerIn(options.netns);
    this.#loopback = new Loopback(this.#run, options.pinDir);
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
    await this.#turn.catch(() => {});
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

  /**
   * What a cell with flows of `via` LOOPBACK needs inside, where `netns` is the path of its network namespace and
   * `scope` the host end of its veth. It goes with the namespace; `removeInside` takes out what is left here.
   */
  async attachInside(netns: string, scope: number, signal?: AbortSignal): Promise<void> {
    const { pinDir } = this.#options;
    const run = runnerIn(netns);
    const put = async ({ insides }: Mirror) => {
      const inside = await describeInside(run, scope, [...insides.values()], signal);
      insides.set(scope, inside);
      await this.#write([updateLine(pinDir, 'cells', encodeId(inside.id), encodeCell(inside))]);
      await attachInside(run, pinDir, inside, signal);
    };
    await this.#use((mirror) => this.#exclusive(() => put(mirror)));
  }

  /** When the cell, or the last of those flows, is gone: packets for them stay inside from now on. */
  async removeInside(scope: number): Promise<void> {
    await this.#use(async ({ insides }) => {
      const inside = insides.get(scope);
      if (inside === undefined || !insides.delete(scope)) return;
      await this.#write([deleteLine(this.#options.pinDir, 'cells', encodeId(inside.id))]);
    });
  }

  /** Takes off whatever of ours is on the device; no harm where nothing is. */
  async detachDevice(name: string, signal?: AbortSignal): Promise<void> {
    const { pinDir } = this.#options;
    await this.#exclusive(async () => {
      if (!(await isPinned(pinDir))) return;
      const device = (await attachedDevices(this.#run, pinDir, signal)).find((each) => each.name === name);
      if (device !== undefined) await detach(this.#run, pinDir, device, signal);
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
      for (const { localSide, remoteSide } of entries) this.#checkSides(mirror, [localSide, remoteSide]);
      const change = () => this.#change(mirror, entries, (entry) => putFlow(mirror.table, entry), signal);
      await this.#loopback.around(entries.some(isViaLoopback), change, () => needsLoopback(mirror));
    });
  }

  /** What the owners of local ends say of their flows. The sides must be there. */
  async putLocals(halves: readonly LocalHalf[]): Promise<void> {
    await this.#use(async (mirror) => {
      if (halves.length > 0) await this.#readCreated(mirror);
      for (const { localSide } of halves) this.#checkSides(mirror, [localSide]);
      const change = () => this.#change(mirror, halves, (half) => putLocal(mirror.table, half));
      await this.#loopback.around(halves.some(isViaLoopback), change, () => needsLoopback(mirror));
    });
  }

  /** What is known of remote ends. The sides must be there. */
  async putRemotes(halves: readonly RemoteHalf[]): Promise<void> {
    await this.#use(async (mirror) => {
      if (halves.length > 0) await this.#readCreated(mirror);
      for (const { remoteSide } of halves) this.#checkSides(mirror, [remoteSide]);
      await this.#change(mirror, halves, (half) => putRemote(mirror.table, half));
    });
  }

  /** A flow is gone with its last half. */
  async removeLocals(ids: readonly FlowId[]): Promise<void> {
    if (ids.length === 0) return;
    await this.#use(async (mirror) => {
      const change = () => this.#change(mirror, ids, (id) => removeLocal(mirror.table, id));
      await this.#loopback.around(false, change, () => needsLoopback(mirror));
    });
  }

  async removeRemotes(ids: readonly FlowId[]): Promise<void> {
    if (ids.length === 0) return;
    await this.#use((mirror) => this.#change(mirror, ids, (id) => removeRemote(mirror.table, id)));
  }

  /** What owners of local ends have said so far of these flows: undefined where there is nothing. */
  async locals(ids: readonly FlowId[]): Promise<(LocalHalf | undefined)[]> {
    const halves: (LocalHalf | undefined)[] = [];
    if (!(await this.#isLoaded())) return ids.map(() => undefined);
    await this.#use(async (mirror) => {
      await this.#readCreated(mirror);
      const { table } = mirror;
      for (const id of ids) halves.push(halvesOf(table, id).local);
    });
    return halves;
  }

  /** Where packets of each flow go now: undefined where nobody follows its remote end. */
  async places(ids: readonly FlowId[]): Promise<(WireSlot | undefined)[]> {
    if (!(await this.#isLoaded())) return ids.map(() => undefined);
    const places: (WireSlot | undefined)[] = [];
    await this.#use(async (mirror) => {
      await this.#readCreated(mirror);
      const { table, sides } = mirror;
      for (const id of ids) places.push(remotePlace(table, sides, id));
    });
    return places;
  }

  /** Takes flows out, whole, by scope and virtual endpoints; those that are not there are no error. */
  async removeFlows(entries: readonly FlowId[], signal?: AbortSignal): Promise<void> {
    if (entries.length === 0) return;
    await this.#use(async (mirror) => {
      const change = () => this.#change(mirror, entries, (entry) => removeFlow(mirror.table, entry), signal);
      await this.#loopback.around(false, change, () => needsLoopback(mirror));
    });
  }

  /** Enters rules, or replaces those with the same key: flows that a rule has created stay as they are. */
  async putRules(rules: readonly Rule[], signal?: AbortSignal): Promise<void> {
    if (rules.length === 0) return;
    for (const rule of rules) checkRule(rule);
    await this.#use(async (mirror) => {
      for (const rule of rules) this.#checkSides(mirror, [sideOf(rule)]);
      const { spent } = await this.#reread(mirror, signal, (reading) => reading);
      checkRoom(
        rules.filter((rule) => !mirror.rules.has(ruleText(rule))),
        mirror.rules.values(),
      );
      const numbered = rules.map((rule) => {
        const known = mirror.rules.get(ruleText(rule));
        const number = known?.number ?? freeNumber(mirror.table, mirror.rules.values());
        if (number === undefined) throw full(`${RULES_MAX - 1} rules`);
        const added = rule.flowsMax - (known?.rule.flowsMax ?? 0);
        const entry = { rule, number, limit: ((known?.limit ?? spent[number] ?? 0) + added) >>> 0 };
        mirror.rules.set(ruleText(rule), entry);
        mirror.ruled = true;
        return entry;
      });
      const lines = numbered.map((rule) => this.#ruleLine(rule));
      const change = () => this.#write(lines, signal);
      await this.#loopback.around(rules.some(isOfOwn), change, () => needsLoopback(mirror));
    });
  }

  /** Rules that are not there are no error. The flows that they have created stay: see removeCreated. */
  async removeRules(rules: readonly Rule[], signal?: AbortSignal): Promise<void> {
    if (rules.length === 0) return;
    await this.#use(async (mirror) => {
      const removed = rules.filter((rule) => mirror.rules.delete(ruleText(rule)));
      const line = (rule: Rule) => deleteLine(this.#options.pinDir, mapOf(rule), encodeRuleKey(rule));
      const change = () => this.#write(removed.map(line), signal);
      await this.#loopback.around(false, change, () => needsLoopback(mirror));
    });
  }

  /** The rules that are there: only the agent writes them, so the kernel need not be asked. */
  async rules(): Promise<Rule[]> {
    const rules: Rule[] = [];
    if (!(await this.#isLoaded())) return rules;
    await this.#use(async (mirror) => {
      rules.push(...[...mirror.rules.values()].map(({ rule }) => rule));
    });
    return rules;
  }

  /** There have been rules, so there may be flows that they have created. */
  get isRuled(): boolean {
    return this.#mirror?.ruled ?? false;
  }

  /** The flows that rules have created, read afresh; from here on removeFlows and putFlows know them. */
  async refresh(signal?: AbortSignal): Promise<FlowEntry[]> {
    let created: FlowEntry[] = [];
    if (!(await this.#isLoaded())) return created;
    await this.#use(async (mirror) => {
      await this.#reread(mirror, signal, () => {});
      created = [...mirror.table.flows.values()].filter(({ rule }) => rule !== undefined);
    });
    return created;
  }

  /**
   * Removes the created flows that `which` is true of (created.ts has some), and what no flow has any more: their ways in,
   * and the labels that were drawn for them, which it answers with. Rules may create as many anew. Take the rules out
   * first where no flow is to come back.
   */
  async removeCreated(which: (flow: FlowEntry) => boolean, signal?: AbortSignal): Promise<DrawnLabel[]> {
    const labels = this.#removal.then(() => this.#removeCreated(which, signal));
    this.#removal = labels.catch(() => {});
    return await labels;
  }

  /** The flip: one element, so all flows of the side switch between two packets. */
  async putSide(side: Side): Promise<void> {
    await this.#use(async ({ sides }) => {
      if (side.id === 0) throw new OsmosisError('DATAPATH', 'a side needs an id other than 0; this is a bug');
      if (!sides.has(side.id) && sides.size >= SIDES_MAX) throw full(`${SIDES_MAX} sides`);
      sides.set(side.id, side);
      await this.#write([updateLine(this.#options.pinDir, 'sides', encodeId(side.id), encodeSide(side))]);
    });
  }

  /** Remove the side's flows first: packets of a flow whose side is missing are dropped. */
  async removeSide(id: number): Promise<void> {
    await this.#use(async ({ sides }) => {
      if (!sides.delete(id)) return;
      await this.#write([deleteLine(this.#options.pinDir, 'sides', encodeId(id))]);
    });
  }

  /** Drops every SYN for these TCP endpoints; `::` means any address, `0.0.0.0` any of IPv4. The client tries again. */
  async fenceListeners(endpoints: readonly Endpoint[], signal?: AbortSignal): Promise<void> {
    await this.#use(async ({ listeners }) => {
      const added = endpoints.filter((endpoint) => !listeners.has(endpointText(endpoint)));
      if (listeners.size + added.length > LISTENERS_MAX) throw full(`${LISTENERS_MAX} fenced listeners`);
      for (const endpoint of added) listeners.set(endpointText(endpoint), endpoint);
      const set = Uint8Array.of(1, 0, 0, 0);
      const line = (endpoint: Endpoint) =>
        updateLine(this.#options.pinDir, 'listeners', encodeListener(endpoint), set);
      await this.#write(added.map(line), signal);
    });
  }

  async unfenceListeners(endpoints: readonly Endpoint[], signal?: AbortSignal): Promise<void> {
    if (endpoints.length === 0) return;
    await this.#use(async ({ listeners }) => {
      const removed = endpoints.filter((endpoint) => listeners.delete(endpointText(endpoint)));
      const line = (endpoint: Endpoint) =>
        deleteLine(this.#options.pinDir, 'listeners', encodeListener(endpoint));
      await this.#write(removed.map(line), signal);
    });
  }

  /** Entered before the side of their flows is fenced, taken out after it. */
  async putForwards(forwards: readonly Forward[], signal?: AbortSignal): Promise<void> {
    await this.#use(async (mirror) => {
      if (mirror.forwards.size + forwards.length > FORWARDS_MAX) throw full(`${FORWARDS_MAX} forwards`);
      for (const forward of forwards) mirror.forwards.set(forwardText(forward), forward);
      const line = (forward: Forward) =>
        updateLine(this.#options.pinDir, 'forwards', encodeForwardKey(forward), encodeForwardValue(forward));
      await this.#write(forwards.map(line), signal);
    });
  }

  async removeForwards(forwards: readonly Forward[], signal?: AbortSignal): Promise<void> {
    if (forwards.length === 0) return;
    await this.#use(async (mirror) => {
      const removed = forwards.filter((forward) => mirror.forwards.delete(forwardText(forward)));
      const line = (forward: Forward) =>
        deleteLine(this.#options.pinDir, 'forwards', encodeForwardKey(forward));
      await this.#write(removed.map(line), signal);
    });
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
    const turn = this.#watching.then(async () => {
      signal.throwIfAborted();
      let seen: Tuple[] = [];
      await this.#use(async () => {
        for (const device of devices) await this.attachDevice(device, signal);
        seen = await watchPorts(this.#seenMaps(), ports, ms, signal);
      });
      return seen;
    });
    this.#watching = turn.catch(() => {});
    return await turn;
  }

  /** What the kernel has, read afresh; all empty where nothing is loaded. */
  async entries(signal?: AbortSignal): Promise<Snapshot> {
    return await this.#exclusive(async () => {
      if (!(await isPinned(this.#options.pinDir))) {
        return {
          flows: [],
          sides: [],
          listeners: [],
          forwards: [],
          insides: [],
          rules: [],
          counters: decodeCounters([]),
          devices: [],
        };
      }
      return await this.#snapshot(signal);
    });
  }

  /**
   * Where no flow, side, rule or listener is left: detaches, unpins and unloads everything and unmounts the bpffs. Answers
   * whether nothing of ours is there any more.
   */
  async removeIfEmpty(signal?: AbortSignal): Promise<boolean> {
    const { pinDir } = this.#options;
    return await this.#exclusive(async () => {
      if (await isPinned(pinDir)) {
        const mirror = this.#mirror ?? (await this.#adopt());
        if (!isEmpty(mirror) || (mirror.ruled && !(await this.#isFlowless(signal)))) return false;
        if (this.#users > 0) return false;
        // Before anything else is awaited: whoever comes from here on waits for its turn and loads anew.
        this.#mirror = undefined;
        this.#removals += 1;
        for (const device of await attachedDevices(this.#run, pinDir, signal)) {
          await detach(this.#run, pinDir, device, signal);
        }
        await this.#loopback.restore();
      }
      this.#mirror = undefined;
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
      dump: (map) => dumpMap(this.#run, pinDir, map),
    };
  }

  async #attach(name: string, programs: readonly ProgramName[], signal?: AbortSignal): Promise<void> {
    await this.#use(() =>
      this.#exclusive(() => attach(this.#run, this.#options.pinDir, name, programs, signal)),
    );
  }

  async #isLoaded(): Promise<boolean> {
    return this.#mirror !== undefined || (await isPinned(this.#options.pinDir));
  }

  /** Runs what needs the programs: loads or adopts them first, and keeps removeIfEmpty away meanwhile. */
  async #use(action: (mirror: Mirror) => Promise<void>): Promise<void> {
    this.#users += 1;
    try {
      await action(this.#mirror ?? (await this.#exclusive(() => this.#load())));
    } finally {
      this.#users -= 1;
    }
  }

  async #exclusive<T>(action: () => Promise<T>): Promise<T> {
    const result = this.#turn.then(action);
    this.#turn = result.catch(() => {});
    return await result;
  }

  async #load(): Promise<Mirror> {
    if (this.#mirror !== undefined) return this.#mirror;
    const { pinDir, objectFile, log } = this.#options;
    const found = await isPinned(pinDir);
    if (!found) await loadPins(this.#run, pinDir, objectFile);
    this.#mirror = found ? await this.#adopt() : emptyMirror();
    // Started now, so that the flip does not wait for it.
    await this.#batch.run([]);
    log?.(`datapath ${found ? 'adopted from' : 'loaded to'} ${pinDir}`);
    return this.#mirror;
  }

  async #adopt(): Promise<Mirror> {
    const { flows, sides, listeners, forwards, insides, rules } = await this.#snapshot();
    return {
      table: createTable(flows),
      sides: new Map(sides.map((side) => [side.id, side])),
      listeners: new Map(listeners.map((endpoint) => [endpointText(endpoint), endpoint])),
      forwards: new Map(forwards.map((forward) => [forwardText(forward), forward])),
      insides: new Map(insides.map((inside) => [inside.scope, inside])),
      rules: new Map(rules.map((rule) => [ruleText(rule.rule), rule])),
      changed: new Set(),
      ruled: rules.length > 0 || flows.some(({ rule }) => rule !== undefined),
    };
  }

  /**
   * Reads what the programs write, the flows last, and takes into the mirror the flows that they have created. `then` gets
   * what was read before the mirror can change again.
   */
  async #reread<T>(
    mirror: Mirror,
    signal: AbortSignal | undefined,
    then: (reading: Reading) => T,
  ): Promise<T> {
    const { pinDir } = this.#options;
    const changed = new Set<string>();
    mirror.changed.add(changed);
    try {
      // Whatever has left the mirror before is out of the kernel now.
      await this.#batch.run([]);
      const [spent, drawn, ingress] = await Promise.all([
        dumpMap(this.#run, pinDir, 'spent', signal),
        dumpMap(this.#run, pinDir, 'drawn', signal),
        dumpMap(this.#run, pinDir, 'ingress', signal),
      ]);
      const egress = await dumpMap(this.#run, pinDir, 'egress', signal);
      const flows = egress.map((element) => decodeEgress(element.key, flowValue(element)));
      adoptCreated(mirror.table, flows, changed);
      const reading = { spent: decodeSpent(spent), drawn: decodeLabels(drawn), ingress };
      return then({ ...reading, changed: changed.size > 0 });
    } finally {
      mirror.changed.delete(changed);
    }
  }

  /** Takes what rules have created into the mirror, where there have been rules. */
  async #readCreated(mirror: Mirror, signal?: AbortSignal): Promise<void> {
    if (mirror.ruled) await this.#reread(mirror, signal, () => {});
  }

  async #removeCreated(which: (flow: FlowEntry) => boolean, signal?: AbortSignal): Promise<DrawnLabel[]> {
    const { pinDir } = this.#options;
    let labels: DrawnLabel[] = [];
    if (!(await this.#isLoaded())) return labels;
    await this.#use(async (mirror) => {
      const { table, rules } = mirror;
      await this.#reread(mirror, signal, () => {});
      const gone = [...table.flows.values()].filter((flow) => flow.rule !== undefined && which(flow));
      const change = () => this.#change(mirror, gone, (flow) => removeFlow(table, flow));
      await this.#loopback.around(false, change, () => needsLoopback(mirror));
      const writing = await this.#reread(mirror, signal, ({ spent, drawn, ingress, changed }) => {
        const lost = changed ? [] : orphans(table, ingress);
        const limits = newLimits(table, rules.values(), spent);
        labels = unusedLabels(table, drawn);
        for (const rule of limits) rules.set(ruleText(rule.rule), rule);
        const lines = [
          ...lost.map((key) => deleteLine(pinDir, 'ingress', key)),
          ...labels.map((label) => deleteLine(pinDir, 'labels', encodeOwner(label))),
          ...labels.map((label) => deleteLine(pinDir, 'drawn', encodeLabel(label))),
          ...limits.map((rule) => this.#ruleLine(rule)),
        ];
        // Begun before anything else can change the mirror.
        return { done: this.#write(lines) };
      });
      await writing.done;
    });
    return labels;
  }

  async #isFlowless(signal?: AbortSignal): Promise<boolean> {
    return (await dumpMap(this.#run, this.#options.pinDir, 'egress', signal)).length === 0;
  }

  #ruleLine(numbered: NumberedRule): string {
    const { rule } = numbered;
    return updateLine(this.#options.pinDir, mapOf(rule), encodeRuleKey(rule), encodeRuleValue(numbered));
  }

  async #snapshot(signal?: AbortSignal): Promise<Snapshot> {
    const { pinDir } = this.#options;
    const dump = (map: MapName) => dumpMap(this.#run, pinDir, map, signal);
    const [egress, sides, listeners, forwards, cells, counters, rules, devices] = await Promise.all([
      dump('egress'),
      dump('sides'),
      dump('listeners'),
      dump('forwards'),
      dump('cells'),
      dump('counters'),
      Promise.all(RULE_MAPS.map(async (map) => rulesOf(map, await dump(map)))),
      attachedDevices(this.#run, pinDir, signal),
    ]);
    return {
      flows: egress.map((element) => decodeEgress(element.key, flowValue(element))),
      sides: sides.map((element) => decodeSide(element.key, soleValue(element))),
      listeners: listeners.map(({ key }) => decodeListener(key)),
      forwards: forwards.map((element) => decodeForward(element.key, soleValue(element))),
      insides: cells.map((element) => decodeCell(element.key, soleValue(element))),
      rules: rules.flat(),
      counters: decodeCounters(counters.map(({ values }) => values)),
      devices,
    };
  }

  #checkSides({ sides }: Mirror, ids: readonly number[]): void {
    const missing = ids.find((id) => id !== 0 && !sides.has(id));
    if (missing === undefined) return;
    throw new OsmosisError(
      'DATAPATH',
      `side ${missing} of a flow or rule is not there; put the side before its flows and rules`,
    );
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

function needsLoopback({ table, rules }: Mirror): boolean {
  return (
    [...table.flows.values()].some(isViaLoopback) || [...rules.values()].some(({ rule }) => isOfOwn(rule))
  );
}

/** The flows that it creates for sockets of this host are `via` LOOPBACK: their remote endpoint has an address of its own. */
function isOfOwn(rule: Rule): boolean {
  return rule.kind === 'follow' && rule.labels !== undefined;
}

function isViaLoopback({ via }: Pick<FlowEntry, 'via'>): boolean {
  return via === LOOPBACK;
}

function lineOf(pinDir: string, { map, key, value }: Change): string {
  return value === undefined ? deleteLine(pinDir, map, key) : updateLine(pinDir, map, key, value);
}

function forwardText({ protocol, local, peer }: Forward): string {
  return `${protocol} ${endpointText(local)} ${peer}`;
}

function emptyMirror(): Mirror {
  return {
    table: createTable(),
    sides: new Map(),
    listeners: new Map(),
    forwards: new Map(),
    insides: new Map(),
    rules: new Map(),
    changed: new Set(),
    ruled: false,
  };
}

function ruleText(rule: Rule): string {
  return `${rule.kind} ${encodeRuleKey(rule)}`;
}

function rulesOf(map: RuleMap, elements: readonly Element[]): NumberedRule[] {
  return elements.map((element) => decodeRule(map, element.key, soleValue(element)));
}

function isEmpty({ table, sides, listeners, forwards, insides, rules }: Mirror): boolean {
  const maps = [table.flows, sides, listeners, forwards, insides, rules];
  return maps.every(({ size }) => size === 0);
}

/** Entries that were pinned with another layout are told by their size. */
function flowValue(element: Element): Uint8Array {
  const value = soleValue(element);
  const known = element.key.length === LAYOUT.egress_key.bytes && value.length === LAYOUT.egress_value.bytes;
  if (known) return value;
  const message =
    'the pinned flows are of another version of Osmosis; run that one until they are gone, or reboot';
  throw new OsmosisError('DATAPATH', message);
}

function soleValue({ values: [value] }: Element): Uint8Array {
  if (value === undefined) throw new RangeError('a map element has no value');
  return value;
}
