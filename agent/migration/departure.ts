/** What a migration puts into the source's datapath, and takes out again: the flows as they are, the fence, the forwards. */
import { randomInt } from 'node:crypto';
import { type Endpoint, endpointKey, flowKey, type PlacedFlow, type Protocol } from '../address.ts';
import { acceptsAt } from '../cell/forwarding.ts';
import type { Cell } from '../cell/registry.ts';
import type { Label, Snapshot } from '../control/protocol.ts';
import type { Datapath } from '../datapath/datapath.ts';
import { acceptOf, type Forward, type LocalHalf, type Side } from '../datapath/model.ts';
import { ethernetDevices, routeTo } from '../host/routes.ts';

/** For an agent that comes back. */
export type DepartureRecord = {
  readonly side: number;
  readonly flows: readonly LocalHalf[];
  /** What of them was there before, and is to be there again after an undoing. */
  readonly before: readonly LocalHalf[];
  readonly listeners: Snapshot['listeners'];
  readonly forwards: readonly Forward[];
};

export class Departure {
  readonly #datapath: Datapath;
  /** Its place here does not change. */
  #cell: Cell;
  #side: Side | undefined;
  #entries: LocalHalf[] = [];
  /** Of `#entries`, what was said of them before: flows that go by a label of this host already. */
  #before: LocalHalf[] = [];
  #heldOff: Snapshot['listeners'] = [];
  #forwards: Forward[] = [];

  constructor(datapath: Datapath, cell: Cell) {
    this.#datapath = datapath;
    this.#cell = cell;
  }

  record(): DepartureRecord {
    return {
      side: this.#side?.id ?? 0,
      flows: this.#entries,
      before: this.#before,
      listeners: this.#heldOff,
      forwards: this.#forwards,
    };
  }

  /** Every flow that is entered, by flowKey. */
  knownFlows(): Set<string> {
    return new Set(this.#own.map((flow) => flowKey(flow)));
  }

  /** Where each peer has the cell's endpoints now. */
  placedLabels(flows: readonly PlacedFlow[]): Label[] {
    const here = new Map(this.#own.map((half) => [flowKey(half), half.wireLocal]));
    const labels = flows.map((flow): Label => {
      const { protocol, local, at, known } = flow;
      const wire = here.get(flowKey(flow)) ?? local;
      return { protocol, virtual: known ?? local, peer: at.address, wire };
    });
    return [
      ...new Map(labels.map((each) => [labelKey(each.protocol, each.virtual, each.peer), each])).values(),
    ];
  }

  /** With the flows that it has had since it came here. */
  update(cell: Cell): void {
    this.#cell = cell;
  }

  /**
   * New connections have to wait, whoever they come from and also where there is none yet. A cell with a network of its own
   * is reached through its flows, and where new ones come to.
   */
  async holdOff(listeners: Snapshot['listeners'], flows: readonly PlacedFlow[]): Promise<void> {
    const { link, published = [] } = this.#cell;
    const wires = [...published, ...acceptsAt(this.#cell)];
    const open = link === undefined ? listeners : wires.map(({ protocol, wire }) => ({ protocol, ...wire }));
    const held = open.filter(({ protocol }) => protocol === 'tcp');
    if (held.length === 0) return;
    this.#heldOff = held;
    for (const address of peersOf(flows)) await this.#attachTowards(address);
    for (const device of await ethernetDevices()) await this.#datapath.attachDevice(device);
    await this.#datapath.fenceListeners(held);
  }

  /** At home the flows are entered as they are, so that one update can switch them all. */
  async enterFlows(flows: readonly PlacedFlow[]): Promise<void> {
    const { link, side } = this.#cell;
    const id = link === undefined ? randomInt(1, 2 ** 31) : side;
    this.#side = { id, state: 'home', active: 0, accept: acceptOf(0), ifindex: link?.ifindex ?? 0 };
    if (link !== undefined || flows.length === 0) return;
    const devices = new Map<string, number>();
    for (const address of peersOf(flows)) devices.set(address, await this.#attachTowards(address));
    const ids = flows.map(({ protocol, local, remote }) => ({ protocol, local, remote, scope: 0 }));
    const before = await this.#datapath.locals(ids);
    this.#before = before.flatMap((half) => half ?? []);
    this.#entries = ids.map((flow, index) => ({
      ...flow,
      wireLocal: before[index]?.wireLocal ?? flow.local,
      localSide: id,
      via: before[index]?.via ?? 0,
      path: devices.get(flows[index]?.at.address ?? '') ?? 0,
    }));
    await this.#datapath.putSide(this.#side);
    await this.#datapath.putLocals(this.#entries);
  }

  /** What peers say while the process is frozen goes on to the destination, and waits there for it. */
  async enterForwards(labels: readonly Label[], flows: readonly PlacedFlow[]): Promise<void> {
    if (!this.#hasFlows) return;
    const routes = new Map<string, number>();
    for (const { wire } of labels) {
      if (!routes.has(wire.address)) routes.set(wire.address, (await routeTo(wire.address)).ifindex);
    }
    const here = new Map(this.#own.map((half) => [flowKey(half), half.wireLocal]));
    const there = new Map(
      labels.map((label) => [labelKey(label.protocol, label.virtual, label.peer), label]),
    );
    const forwards = flows.flatMap((flow): Forward[] => {
      const { protocol, local, at, known } = flow;
      const wire = there.get(labelKey(protocol, known ?? local, at.address))?.wire;
      if (wire === undefined) return [];
      const to = { endpoint: wire, ifindex: routes.get(wire.address) ?? 0 };
      return [{ protocol, local: here.get(flowKey(flow)) ?? local, peer: at.address, to }];
    });
    this.#forwards = [
      ...new Map(forwards.map((each) => [labelKey(each.protocol, each.local, each.peer), each])).values(),
    ];
    await this.#datapath.putForwards(this.#forwards);
  }

  /**
   * One update for all flows: nothing reaches the process any more, or all does again. `frozen` once it stands still: what
   * its sockets still repeat by themselves would carry later TCP timestamps (RFC 7323) than CRIU has saved, and the peers
   * would then take what the restored ones say for old, for as long as it has stood still.
   */
  async switchTo(state: 'leaving' | 'frozen' | 'home'): Promise<void> {
    if (this.#side !== undefined && this.#hasFlows) await this.#datapath.putSide({ ...this.#side, state });
  }

  /** The process goes on here: only what serves the cell itself stays. */
  async takeBack(): Promise<void> {
    if (this.#cell.link === undefined) {
      const before = this.#before;
      await this.remove();
      // Whoever entered these before looks after them again.
      if (before.length > 0) await this.#datapath.putLocals(before);
      return;
    }
    await this.#datapath.unfenceListeners(this.#heldOff);
    await this.#datapath.removeForwards(this.#forwards);
    this.#forwards = [];
    this.#heldOff = [];
  }

  /** Nothing of the cell is left in this host's datapath. */
  async remove(): Promise<void> {
    await this.#datapath.unfenceListeners(this.#heldOff);
    await this.#datapath.removeForwards(this.#forwards);
    await this.#datapath.removeLocals(this.#own);
    if (this.#side !== undefined && this.#side.id !== 0) await this.#datapath.removeSide(this.#side.id);
    this.#heldOff = [];
    this.#forwards = [];
    this.#entries = [];
    this.#before = [];
  }

  get #own(): readonly LocalHalf[] {
    return this.#cell.link === undefined ? this.#entries : this.#cell.flows;
  }

  get #hasFlows(): boolean {
    return this.#entries.length > 0 || this.#cell.side !== 0;
  }

  async #attachTowards(address: string): Promise<number> {
    const { device, ifindex } = await routeTo(address);
    await this.#datapath.attachDevice(device);
    return ifindex;
  }
}

function labelKey(protocol: Protocol, endpoint: Endpoint, peer: string): string {
  return `${endpointKey(protocol, endpoint)} ${peer}`;
}

function peersOf(flows: readonly PlacedFlow[]): Set<string> {
  return new Set(flows.map(({ at }) => at.address));
}
