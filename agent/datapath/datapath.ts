/**
 * The datapath of one host: owns the pinned programs and maps, and is the only writer of them.
 *
 * Nothing is loaded, mounted or attached before the first entry. Everything is pinned, so flows go on while no agent
 * runs; the next one adopts what it finds. `removeIfEmpty` leaves nothing behind.
 */
import { type Endpoint, endpointText } from '../address.ts';
import { OsmosisError } from '../error.ts';
import { type AttachedDevice, attach, attachedDevices, detach } from './attach.ts';
import { Batch } from './batch.ts';
import { deleteLine, type Element, type ProgramName, updateLine } from './bpftool.ts';
import {
  decodeCounters,
  decodeEgress,
  decodeForward,
  decodeListener,
  decodeSide,
  encodeForwardKey,
  encodeForwardValue,
  encodeId,
  encodeListener,
  encodeSide,
  LAYOUT,
} from './layout.ts';
import type { Counters, FlowEntry, Forward, Side } from './model.ts';
import { dumpMap, isPinned, loadPins, removePins } from './pins.ts';
import { type Run, runnerIn } from './run.ts';
import {
  type Change,
  createTable,
  type FlowTable,
  FORWARDS_MAX,
  full,
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
  readonly counters: Counters;
  readonly devices: readonly AttachedDevice[];
};

/** What the maps hold, as the one writer of them knows. */
type Mirror = {
  readonly table: FlowTable;
  readonly sides: Map<number, Side>;
  readonly listeners: Map<string, Endpoint>;
  readonly forwards: Map<string, Forward>;
};

export class Datapath {
  readonly #options: DatapathOptions;
  readonly #run: Run;
  readonly #batch = new Batch();
  #mirror: Mirror | undefined;
  #removals = 0;
  /** Calls that are under way and count on the programs being loaded. */
  #users = 0;
  /** Loading, attaching, removing: one at a time. */
  #turn: Promise<unknown> = Promise.resolve();

  private constructor(options: DatapathOptions) {
    this.#options = options;
    this.#run = runnerIn(options.netns);
  }

  /**
   * Adopts what an earlier agent has left pinned, or removes it where it holds no entry. OsmosisError DATAPATH where it
   * has entries and is of a version with other layouts.
   */
  static async open(options: DatapathOptions): Promise<Datapath> {
    const datapath = new Datapath(options);
    if (await isPinned(options.pinDir)) {
      if (isEmpty(await datapath.#adopt())) await datapath.removeIfEmpty();
      else await datapath.#use(async () => {});
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
   */
  async putFlows(entries: readonly FlowEntry[], signal?: AbortSignal): Promise<void> {
    await this.#use(async (mirror) => {
      for (const entry of entries) this.#checkSides(mirror, entry);
      await this.#change(entries, (entry) => putFlow(mirror.table, entry), signal);
    });
  }

  /** Takes flows out, by scope and virtual endpoints; those that are not there are no error. */
  async removeFlows(
    entries: readonly Pick<FlowEntry, 'protocol' | 'local' | 'remote' | 'scope'>[],
    signal?: AbortSignal,
  ): Promise<void> {
    if (entries.length === 0) return;
    await this.#use((mirror) => this.#change(entries, (entry) => removeFlow(mirror.table, entry), signal));
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

  /** What the kernel has, read afresh; all empty where nothing is loaded. */
  async entries(signal?: AbortSignal): Promise<Snapshot> {
    return await this.#exclusive(async () => {
      if (!(await isPinned(this.#options.pinDir))) {
        return {
          flows: [],
          sides: [],
          listeners: [],
          forwards: [],
          counters: decodeCounters([]),
          devices: [],
        };
      }
      return await this.#snapshot(signal);
    });
  }

  /**
   * Where no flow, side or listener is left: detaches, unpins and unloads everything and unmounts the bpffs. Answers
   * whether nothing of ours is there any more.
   */
  async removeIfEmpty(signal?: AbortSignal): Promise<boolean> {
    const { pinDir } = this.#options;
    return await this.#exclusive(async () => {
      if (await isPinned(pinDir)) {
        if (!isEmpty(this.#mirror ?? (await this.#adopt())) || this.#users > 0) return false;
        // Before anything else is awaited: whoever comes from here on waits for its turn and loads anew.
        this.#mirror = undefined;
        this.#removals += 1;
        for (const device of await attachedDevices(this.#run, pinDir, signal)) {
          await detach(this.#run, pinDir, device, signal);
        }
      }
      this.#mirror = undefined;
      await this.#batch.close();
      await removePins(this.#run, pinDir, signal);
      this.#options.log?.(`datapath removed from ${pinDir}`);
      return true;
    });
  }

  async #attach(name: string, programs: readonly ProgramName[], signal?: AbortSignal): Promise<void> {
    await this.#use(() =>
      this.#exclusive(() => attach(this.#run, this.#options.pinDir, name, programs, signal)),
    );
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
    this.#mirror = found
      ? await this.#adopt()
      : { table: createTable(), sides: new Map(), listeners: new Map(), forwards: new Map() };
    // Started now, so that the flip does not wait for it.
    await this.#batch.run([]);
    log?.(`datapath ${found ? 'adopted from' : 'loaded to'} ${pinDir}`);
    return this.#mirror;
  }

  async #adopt(): Promise<Mirror> {
    const { flows, sides, listeners, forwards } = await this.#snapshot();
    return {
      table: createTable(flows),
      sides: new Map(sides.map((side) => [side.id, side])),
      listeners: new Map(listeners.map((endpoint) => [endpointText(endpoint), endpoint])),
      forwards: new Map(forwards.map((forward) => [forwardText(forward), forward])),
    };
  }

  async #snapshot(signal?: AbortSignal): Promise<Snapshot> {
    const { pinDir } = this.#options;
    const [egress, sides, listeners, forwards, counters, devices] = await Promise.all([
      dumpMap(this.#run, pinDir, 'egress', signal),
      dumpMap(this.#run, pinDir, 'sides', signal),
      dumpMap(this.#run, pinDir, 'listeners', signal),
      dumpMap(this.#run, pinDir, 'forwards', signal),
      dumpMap(this.#run, pinDir, 'counters', signal),
      attachedDevices(this.#run, pinDir, signal),
    ]);
    return {
      flows: egress.map((element) => decodeEgress(element.key, flowValue(element))),
      sides: sides.map((element) => decodeSide(element.key, soleValue(element))),
      listeners: listeners.map(({ key }) => decodeListener(key)),
      forwards: forwards.map((element) => decodeForward(element.key, soleValue(element))),
      counters: decodeCounters(counters.map(({ values }) => values)),
      devices,
    };
  }

  #checkSides({ sides }: Mirror, { localSide, remoteSide }: FlowEntry): void {
    const missing = [localSide, remoteSide].find((id) => id !== 0 && !sides.has(id));
    if (missing === undefined) return;
    throw new OsmosisError(
      'DATAPATH',
      `side ${missing} of a flow is not there; put the side before its flows`,
    );
  }

  /** Changes mirror and kernel a piece at a time: a piece that is in the mirror is being written. */
  async #change<T>(
    entries: readonly T[],
    changesOf: (entry: T) => Change[],
    signal?: AbortSignal,
  ): Promise<void> {
    const { pinDir } = this.#options;
    const lines: string[] = [];
    try {
      for (const entry of entries) {
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

function lineOf(pinDir: string, { map, key, value }: Change): string {
  return value === undefined ? deleteLine(pinDir, map, key) : updateLine(pinDir, map, key, value);
}

function forwardText({ protocol, local, peer }: Forward): string {
  return `${protocol} ${endpointText(local)} ${peer}`;
}

function isEmpty({ table, sides, listeners, forwards }: Mirror): boolean {
  return table.flows.size + sides.size + listeners.size + forwards.size === 0;
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
