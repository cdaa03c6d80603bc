/** What a migration puts into the source's datapath, and takes out again: the flows as they are, the fence, the forwards. */
import { randomInt } from 'node:crypto';
import { endpointText, type Flow, flowKey } from '../address.ts';
import type { Cell } from '../cell/registry.ts';
import type { Label, Snapshot } from '../control/protocol.ts';
import type { Datapath } from '../datapath/datapath.ts';
import { acceptOf, type FlowEntry, type Forward, type Side } from '../datapath/model.ts';
import { routeTo } from '../host/routes.ts';

/** For an agent that comes back. */
export type DepartureRecord = {
  readonly side: number;
  readonly flows: readonly FlowEntry[];
  readonly listeners: Snapshot['listeners'];
  readonly forwards: readonly Forward[];
};

export class Departure {
  readonly #datapath: Datapath;
  /** As it was when the migration began: its place here does not change. */
  readonly #cell: Cell;
  #side: Side | undefined;
  #entries: FlowEntry[] = [];
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
      listeners: this.#heldOff,
      forwards: this.#forwards,
    };
  }

  /** Every flow that is entered, by flowKey. */
  knownFlows(): Set<string> {
    return new Set(
      (this.#entries.length > 0 ? this.#entries : this.#cell.flows).map((flow) => flowKey(flow)),
    );
  }

  /** New connections have to wait. A cell with a network of its own is reached through its flows only. */
  async holdOff(listeners: Snapshot['listeners'], flows: readonly Flow[]): Promise<void> {
    if (this.#cell.link !== undefined || flows.length === 0) return;
    this.#heldOff = listeners.filter(({ protocol }) => protocol === 'tcp');
    for (const address of peersOf(flows)) await this.#attachTowards(address);
    await this.#datapath.fenceListeners(this.#heldOff);
  }

  /** At home the flows are entered as they are, so that one update can switch them all. */
  async enterFlows(flows: readonly Flow[]): Promise<void> {
    const { link, side } = this.#cell;
    const id = link === undefined ? randomInt(1, 2 ** 31) : side;
    this.#side = { id, state: 'home', active: 0, accept: acceptOf(0), ifindex: link?.ifindex ?? 0 };
    if (link !== undefined || flows.length === 0) return;
    const devices = new Map<string, number>();
    for (const address of peersOf(flows)) devices.set(address, await this.#attachTowards(address));
    this.#entries = flows.map((flow) => ({
      ...flow,
      wireLocal: flow.local,
      wireRemote: [{ endpoint: flow.remote, ifindex: devices.get(flow.remote.address) ?? 0 }, undefined],
      localSide: id,
      remoteSide: 0,
      scope: 0,
    }));
    await this.#datapath.putSide(this.#side);
    await this.#datapath.putFlows(this.#entries);
  }

  /** What peers say while the process is frozen goes on to the destination, and waits there for it. */
  async enterForwards(labels: readonly Label[]): Promise<void> {
    if (!this.#hasFlows) return;
    const routes = new Map<string, number>();
    for (const { wire } of labels) {
      if (!routes.has(wire.address)) routes.set(wire.address, (await routeTo(wire.address)).ifindex);
    }
    this.#forwards = labels.map(({ protocol, virtual, peer, wire }) => {
      const here = this.#cell.labels.find(
        (label) => label.peer === peer && endpointText(label.virtual) === endpointText(virtual),
      );
      const to = { endpoint: wire, ifindex: routes.get(wire.address) ?? 0 };
      return { protocol, local: here?.wire ?? virtual, peer, to };
    });
    await this.#datapath.putForwards(this.#forwards);
  }

  /** One update for all flows: nothing reaches the process any more, or all does again. */
  async switchTo(state: 'leaving' | 'home'): Promise<void> {
    if (this.#side !== undefined && this.#hasFlows) await this.#datapath.putSide({ ...this.#side, state });
  }

  /** The process goes on here: only what serves the cell itself stays. */
  async takeBack(): Promise<void> {
    if (this.#cell.link === undefined) return this.remove();
    await this.#datapath.removeForwards(this.#forwards);
    this.#forwards = [];
  }

  /** Nothing of the cell is left in this host's datapath. */
  async remove(): Promise<void> {
    await this.#datapath.unfenceListeners(this.#heldOff);
    await this.#datapath.removeForwards(this.#forwards);
    await this.#datapath.removeFlows(this.#cell.link === undefined ? this.#entries : this.#cell.flows);
    if (this.#side !== undefined && this.#side.id !== 0) await this.#datapath.removeSide(this.#side.id);
    this.#heldOff = [];
    this.#forwards = [];
    this.#entries = [];
  }

  get #hasFlows(): boolean {
    return this.#entries.length > 0 || this.#cell.flows.length > 0;
  }

  async #attachTowards(address: string): Promise<number> {
    const { device, ifindex } = await routeTo(address);
    await this.#datapath.attachDevice(device);
    return ifindex;
  }
}

function peersOf(flows: readonly Flow[]): Set<string> {
  return new Set(flows.map(({ remote }) => remote.address));
}
