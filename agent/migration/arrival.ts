/**
 * What a migration puts into the destination's datapath: labels, the device of the cell, its side and its flows, first so
 * that packets wait, then so that they pass. A cell that comes home needs all of it only until it runs.
 */
import { randomInt } from 'node:crypto';
import { type Endpoint, endpointText, type Protocol } from '../address.ts';
import {
  type CellInit,
  type CellLink,
  createLink,
  createQueue,
  destroyLink,
  releaseQueue,
} from '../cell/namespaces.ts';
import type { CellFlow } from '../cell/registry.ts';
import type { AgentContext } from '../context.ts';
import type { Label, Snapshot } from '../control/protocol.ts';
import { acceptOf, type Side } from '../datapath/model.ts';
import { type Route, routeTo } from '../host/routes.ts';
import { isComingHome } from './homecoming.ts';

const MTU_MAX = 65_535;
/** Of a cell without flows: Ethernet's. */
const MTU_DEFAULT = 1_500;

/** Written down: what an agent that comes back must know to finish or undo. */
export type ArrivalRecord = {
  /** It will use the host's own network. */
  readonly home: boolean;
  readonly link: CellLink | undefined;
  readonly side: number;
  readonly labels: readonly Label[];
  readonly entries: readonly CellFlow[];
};

type Needs = Pick<AgentContext, 'datapath' | 'labels' | 'peerSide'>;
type Coming = Pick<Snapshot, 'flows' | 'listeners' | 'addresses'>;

export class Arrival {
  readonly #context: Needs;
  readonly #device: string;
  readonly #snapshot: Coming;
  #record: ArrivalRecord;
  /** By the address where a peer is. */
  readonly #routes = new Map<string, Route>();

  /** `device`: name for the cell's veth. `record`: what an agent before this one had come to. */
  constructor(context: Needs, device: string, snapshot: Coming, record?: ArrivalRecord) {
    this.#context = context;
    this.#device = device;
    this.#snapshot = snapshot;
    this.#record = record ?? {
      home: isComingHome(snapshot),
      link: undefined,
      side: randomInt(1, 2 ** 31),
      labels: [],
      entries: [],
    };
  }

  get record(): ArrivalRecord {
    return this.#record;
  }

  get labels(): readonly Label[] {
    return this.#record.labels;
  }

  /** One label a local endpoint; its address may differ from peer to peer, as routes do. At home it is what it was. */
  async drawLabels(): Promise<void> {
    const { flows } = this.#snapshot;
    for (const address of new Set(flows.map(({ at }) => at.address)))
      this.#routes.set(address, await routeTo(address));
    const rows = new Map<string, Label>();
    const ports = this.#record.home ? undefined : this.#drawPorts();
    for (const { protocol, local, at } of flows) {
      const address = this.#routes.get(at.address)?.source ?? '';
      const port = ports?.get(endpointKey(protocol, local)) ?? 0;
      const wire = ports === undefined ? local : { address, port };
      const row = { protocol, virtual: local, peer: at.address, wire };
      rows.set(`${endpointKey(protocol, local)} ${at.address}`, row);
    }
    this.#record = { ...this.#record, labels: [...rows.values()] };
  }

  #drawPorts(): Map<string, number> {
    const endpoints = new Map(
      this.#snapshot.flows.map(({ protocol, local }) => [endpointKey(protocol, local), protocol]),
    );
    const ports = this.#context.labels.draw([...endpoints.values()]);
    return new Map([...endpoints.keys()].map((key, index) => [key, ports[index] ?? 0]));
  }

  /** The cell's device, and a queue for what comes before the process runs. */
  async enter(init: CellInit): Promise<void> {
    const { home } = this.#record;
    const { flows, addresses } = this.#snapshot;
    const mtus = [...this.#routes.values()].map((route) => route.mtu);
    const mtu = mtus.length === 0 ? MTU_DEFAULT : Math.min(...mtus, MTU_MAX);
    if (home && flows.length === 0) return;
    const link = home
      ? await createQueue(this.#device)
      : await createLink(init, this.#device, addresses, mtu);
    this.#record = { ...this.#record, link };
    if (flows.length > 0) await this.#enterFlows(link);
  }

  async #enterFlows(link: CellLink): Promise<void> {
    const { datapath, peerSide } = this.#context;
    const { home, side: localSide } = this.#record;
    const { flows } = this.#snapshot;
    const scope = home ? 0 : link.ifindex;
    const wires = new Map(
      this.labels.map((row) => [`${endpointKey(row.protocol, row.virtual)} ${row.peer}`, row.wire]),
    );
    const entries = flows.map(({ protocol, local, remote, at, relayed }): CellFlow => {
      const wireLocal = wires.get(`${endpointKey(protocol, local)} ${at.address}`) ?? local;
      const path = this.#routes.get(at.address)?.ifindex ?? 0;
      return {
        protocol,
        local,
        remote,
        scope,
        wireLocal,
        localSide,
        via: 0,
        path,
        ...(relayed ? { relayed } : {}),
      };
    });
    this.#record = { ...this.#record, entries };
    await datapath.putSide({ ...this.#side('queued'), ifindex: link.ifindex });
    await peerSide.place(scope, flows);
    await datapath.putLocals(entries);
    if (!home) await datapath.attachCell(link.name);
    const devices = new Set([...this.#routes.values()].map((route) => route.device));
    for (const device of devices) await datapath.attachDevice(device);
  }

  /** What the peers say reaches the process from here on. */
  async open(): Promise<void> {
    const { entries, link, home } = this.#record;
    if (entries.length > 0)
      await this.#context.datapath.putSide({
        ...this.#side('home'),
        ifindex: home ? 0 : (link?.ifindex ?? 0),
      });
  }

  /** The process runs: what has waited for it is delivered. */
  async release(): Promise<void> {
    const { link, entries } = this.#record;
    const addresses = [...new Set(entries.map(({ local }) => local.address))];
    if (link !== undefined) await releaseQueue(link, addresses);
  }

  /** At home the flows are plain again, and nothing of them stays but what is known of cells at their other ends. */
  async settle(): Promise<void> {
    if (!this.#record.home) return;
    await this.#remove();
    this.#record = { ...this.#record, link: undefined, side: 0, labels: [], entries: [] };
  }

  async undo(): Promise<void> {
    await this.#context.peerSide.unplace(this.#record.entries);
    await this.#remove();
    if (!this.#record.home)
      this.#context.labels.release(this.labels.map(({ protocol, wire }) => ({ protocol, port: wire.port })));
  }

  async #remove(): Promise<void> {
    const { datapath } = this.#context;
    const { entries, link, side } = this.#record;
    await datapath.removeLocals(entries);
    if (entries.length > 0) await datapath.removeSide(side);
    if (link !== undefined) await destroyLink(link.name);
    await datapath.removeIfEmpty();
  }

  #side(state: 'queued' | 'home'): Side {
    return { id: this.#record.side, state, active: 0, accept: acceptOf(0), ifindex: 0 };
  }
}

function endpointKey(protocol: Protocol, endpoint: Endpoint): string {
  return `${protocol} ${endpointText(endpoint)}`;
}
