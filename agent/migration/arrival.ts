/**
 * What a migration puts into the destination's datapath: labels, the device of the cell, its side and its flows, first so
 * that packets wait, then so that they pass. A cell that comes home needs all of it only until it runs.
 */
import { randomInt } from 'node:crypto';
import {
  endpointKey,
  flowKey,
  isLoopback,
  isSameEndpoint,
  type PlacedFlow,
  type Protocol,
} from '../address.ts';
import { acceptsOf, labelsTo } from '../cell/forwarding.ts';
import {
  type CellInit,
  type CellLink,
  cellSources,
  createLink,
  createQueue,
  destroyLink,
  farEnd,
  QueueRelease,
} from '../cell/namespaces.ts';
import type { Publication } from '../cell/publication.ts';
import type { CellFlow } from '../cell/registry.ts';
import type { AgentContext } from '../context.ts';
import type { Label, RemoteHeld, Snapshot } from '../control/protocol.ts';
import { acceptOf, LOOPBACK, type Side } from '../datapath/model.ts';
import type { Accept } from '../datapath/rules.ts';
import { type PrefixRoute, prefixRoutes } from '../host/route-table.ts';
import { isOwnAddress, type Route, routeTo } from '../host/routes.ts';
import { uniqueLabels } from '../wire/h2o-labels.ts';
import type { Label as WireLabel } from '../wire/h2o-layout.ts';
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

type Needs = Pick<AgentContext, 'datapath' | 'kept' | 'labels' | 'openings' | 'peerSide'>;
type Coming = Pick<Snapshot, 'flows' | 'listeners' | 'addresses' | 'forwarding'>;

export class Arrival {
  readonly #context: Needs;
  readonly #device: string;
  readonly #snapshot: Coming;
  #record: ArrivalRecord;
  /** Ends that have moved, as they were told last, by peer. */
  readonly #followed = new Map<string, string>();
  #queueRelease: QueueRelease | undefined;
  /** By the address where a peer is. */
  readonly #routes = new Map<string, Route>();

  /** `device`: name for the cell's veth. `record`: what an agent before this one had come to. */
  constructor(context: Needs, device: string, snapshot: Coming, record?: ArrivalRecord) {
    this.#context = context;
    this.#device = device;
    this.#snapshot = snapshot;
    this.#record = record ?? {
      home: isComingHome(snapshot, context),
      link: undefined,
      side: randomInt(1, 2 ** 31),
      labels: [],
      entries: [],
    };
    context.labels.take(this.#drawn);
  }

  /** The ports that were drawn for it: at home most endpoints stand for themselves. */
  get #drawn(): { protocol: Protocol; port: number }[] {
    const moved = this.labels.filter(({ virtual, wire }) => !isSameEndpoint(virtual, wire));
    return moved.map(({ protocol, wire }) => ({ protocol, port: wire.port }));
  }

  get record(): ArrivalRecord {
    return this.#record;
  }

  get labels(): readonly Label[] {
    return this.#record.labels;
  }

  /** One label an endpoint, as peers know it; its address may differ from peer to peer, as routes do. */
  async drawLabels(): Promise<void> {
    const { flows } = this.#snapshot;
    for (const address of new Set([...flows.map(({ at }) => at.address), ...this.#followers()]))
      this.#routes.set(address, await routeTo(address));
    const ports = this.#drawPorts();
    const rows = new Map<string, Label>();
    for (const flow of flows) {
      const { protocol, local, at } = flow;
      const virtual = flow.known ?? local;
      const key = endpointKey(protocol, virtual);
      const label = { address: this.#routes.get(at.address)?.source ?? '', port: ports.get(key) ?? 0 };
      const wire = this.#needsLabel(flow) ? label : local;
      rows.set(`${key} ${at.address}`, { protocol, virtual, peer: at.address, wire });
    }
    for (const label of this.#listenerLabels(ports)) {
      const key = `${endpointKey(label.protocol, label.virtual)} ${label.peer}`;
      if (!rows.has(key)) rows.set(key, label);
    }
    this.#record = { ...this.#record, labels: [...rows.values()] };
  }

  /** Peers that new flows come from, also where none has any now. */
  #followers(): string[] {
    const { forwarding } = this.#snapshot;
    return [...(forwarding?.homes ?? []).map(({ address }) => address), ...(forwarding?.followers ?? [])];
  }

  /** Where each peer finds the endpoints that new flows come to. */
  #listenerLabels(ports: ReadonlyMap<string, number>): Label[] {
    const peers = [...this.#routes];
    return (this.#snapshot.forwarding?.endpoints ?? []).flatMap(({ protocol, address, port }) => {
      const virtual = { address, port };
      const label = ports.get(endpointKey(protocol, virtual)) ?? 0;
      return peers
        .filter(([peer]) => peer.includes(':') === address.includes(':'))
        .map(([peer, { source }]) => ({
          protocol,
          virtual,
          peer,
          wire: this.#record.home ? virtual : { address: source, port: label },
        }));
    });
  }

  #drawPorts(): Map<string, number> {
    const labelled = this.#snapshot.flows.filter((flow) => this.#needsLabel(flow));
    const endpoints = new Map(
      labelled.map(({ protocol, local, known }) => [endpointKey(protocol, known ?? local), protocol]),
    );
    if (!this.#record.home)
      for (const { protocol, address, port } of this.#snapshot.forwarding?.endpoints ?? [])
        endpoints.set(endpointKey(protocol, { address, port }), protocol);
    const ports = endpoints.size === 0 ? [] : this.#context.labels.draw([...endpoints.values()]);
    return new Map([...endpoints.keys()].map((key, index) => [key, ports[index] ?? 0]));
  }

  /** At home an endpoint stands for itself, unless it is a loopback one and the other end is on another host. */
  #needsLabel({ local, at }: PlacedFlow): boolean {
    return !this.#record.home || (isLoopback(local.address) && !isOwnAddress(at.address));
  }

  /** Whether its packets come from an address that the cell, or at home the host, has itself. */
  #isViaLoopback({ remote, at }: PlacedFlow): boolean {
    if (!this.#record.home)
      return isLoopback(remote.address) || this.#snapshot.addresses.includes(remote.address);
    const isAway = !isSameEndpoint(at, remote);
    return isAway && (isLoopback(remote.address) || isOwnAddress(remote.address));
  }

  /** The cell's device, a queue for what comes before the process runs, and what new flows need. */
  async enter(init: CellInit, publications: readonly Publication[]): Promise<void> {
    const { home, side } = this.#record;
    const { flows } = this.#snapshot;
    if (home && flows.length === 0) return;
    const link = home ? await createQueue(this.#device) : await this.#createLink(init);
    this.#record = { ...this.#record, link };
    this.#queueRelease = new QueueRelease();
    await this.#context.datapath.putSide({ ...this.#side('queued'), ifindex: link.ifindex });
    await this.#enterFlows(init, link);
    if (home) return;
    await this.#context.datapath.attachCell(link.name);
    await this.#context.openings.open({ link, side, init }, publications);
  }

  async #createLink(init: CellInit): Promise<CellLink> {
    const { addresses } = this.#snapshot;
    const routes = (await prefixRoutes()).filter(({ device }) => device !== 'lo');
    const has = (isV6: boolean) => routes.some(({ prefix }) => prefix.includes(':') === isV6);
    const sources = cellSources(addresses, { v4: has(false), v6: has(true) });
    return await createLink(init, this.#device, [...addresses, ...sources], this.#mtu(routes));
  }

  /** New flows may leave by any device. */
  #mtu(routes: readonly PrefixRoute[]): number {
    const mtus = [...this.#routes.values(), ...routes].map((route) => route.mtu);
    return mtus.length === 0 ? MTU_DEFAULT : Math.min(...mtus, MTU_MAX);
  }

  async #enterFlows(init: CellInit, link: CellLink): Promise<void> {
    const { datapath, peerSide } = this.#context;
    const { home } = this.#record;
    const scope = home ? 0 : link.ifindex;
    const flows = this.#snapshot.flows.map((flow) => this.#besideIt(flow));
    const entries = this.#entriesOf(flows, scope);
    this.#record = { ...this.#record, entries };
    await peerSide.place(scope, flows);
    await datapath.putLocals(entries);
    const devices = new Set([...this.#routes.values()].map((route) => route.device));
    // What the process says to an address of this host's own leaves it there, wherever the other end is.
    if (home && entries.some(({ via }) => via === LOOPBACK)) devices.add('lo');
    for (const device of devices) await datapath.attachDevice(device);
    const accepts = this.#acceptsIn(link);
    await datapath.putRules(accepts);
    if (home) await datapath.attachQueue(farEnd(link.name));
    else if (accepts.length > 0 || entries.some(({ via }) => via === LOOPBACK))
      await datapath.attachInside(`/proc/${init.pid}/ns/net`, scope);
  }

  /** Suspended cells at the other ends: this host answers for them, and tells them where it is, from here on. */
  async adoptHeld(held: readonly RemoteHeld[]): Promise<void> {
    const { link, home } = this.#record;
    const scope = home ? 0 : (link?.ifindex ?? 0);
    const names = new Map(this.#snapshot.flows.map((flow) => [flowKey(flow), flow.known ?? flow.local]));
    const labels = new Map(
      this.labels.map((row) => [`${endpointKey(row.protocol, row.virtual)} ${row.peer}`, row.wire]),
    );
    for (const each of held) {
      const ends = each.flows.flatMap((flow): WireLabel[] => {
        const virtual = names.get(flowKey(flow)) ?? flow.local;
        const wire = labels.get(`${endpointKey(flow.protocol, virtual)} ${flow.at.address}`);
        return wire === undefined ? [] : [{ protocol: flow.protocol, virtual, wire }];
      });
      await this.#context.peerSide.adoptHeld(scope, each, uniqueLabels(ends));
    }
  }

  /** Ends that were at `peer`, and have moved while this cell was suspended: they are where that has said. */
  async followEnds(peer: string, ends: readonly WireLabel[]): Promise<void> {
    const { peerSide, datapath } = this.#context;
    const places = new Map(ends.map((end) => [endpointKey(end.protocol, end.virtual), end.wire]));
    const moved = new Map(
      this.#snapshot.flows.flatMap((flow) => {
        const at = places.get(endpointKey(flow.protocol, flow.remote));
        return flow.at.address !== peer || at === undefined
          ? []
          : [[flowKey(flow), { ...flow, at }] as const];
      }),
    );
    const entries = this.#record.entries.filter((entry) => moved.has(flowKey(entry)));
    const [first] = entries;
    const [to] = ends;
    const said = JSON.stringify(ends);
    if (first === undefined || to === undefined || this.#followed.get(peer) === said) return;
    this.#followed.set(peer, said);
    await peerSide.unplace(entries);
    await peerSide.place(first.scope, [...moved.values()]);
    const { ifindex, device } = await routeTo(to.wire.address);
    await datapath.attachDevice(device);
    const onTheirWay = entries.map((entry) => ({ ...entry, path: ifindex }));
    await datapath.putLocals(onTheirWay);
    const rest = this.#record.entries.filter((entry) => !moved.has(flowKey(entry)));
    this.#record = { ...this.#record, entries: [...rest, ...onTheirWay] };
  }

  /** At home, what was reached through a label of this host's own needs none any more. */
  #besideIt(flow: PlacedFlow): PlacedFlow {
    const beside = this.#record.home && this.#context.peerSide.ownEnds.isOwnLabel(flow);
    return beside ? { ...flow, at: flow.remote } : flow;
  }

  #entriesOf(flows: readonly PlacedFlow[], scope: number): CellFlow[] {
    const wires = new Map(
      this.labels.map((row) => [`${endpointKey(row.protocol, row.virtual)} ${row.peer}`, row.wire]),
    );
    return flows.map((flow, index) => {
      const { protocol, local, remote, relayed, known } = flow;
      const peer = this.#snapshot.flows[index]?.at.address ?? '';
      return {
        protocol,
        local,
        remote,
        scope,
        wireLocal: wires.get(`${endpointKey(protocol, known ?? local)} ${peer}`) ?? local,
        localSide: this.#record.side,
        via: this.#isViaLoopback(flow) ? LOOPBACK : 0,
        path: this.#routes.get(peer)?.ifindex ?? 0,
        ...(relayed ? { relayed } : {}),
      };
    });
  }

  /** What the peers say reaches the process from here on, and its sockets, as they leave repair mode, wake the peers'. */
  async open(): Promise<void> {
    await this.#atHome(true);
  }

  async #atHome(resumed: boolean): Promise<void> {
    const { link, home } = this.#record;
    const ifindex = home ? 0 : (link?.ifindex ?? 0);
    if (link !== undefined) await this.#context.datapath.putSide({ ...this.#side('home'), ifindex, resumed });
  }

  /** The process runs: what has waited for it is delivered. */
  async release(): Promise<void> {
    const { link } = this.#record;
    if (link !== undefined) await (this.#queueRelease ?? new QueueRelease()).run(link);
  }

  /** The process runs. At home the flows are plain again; entries stay for those whose other ends are elsewhere. */
  async settle(): Promise<void> {
    const { home, entries } = this.#record;
    await this.#context.peerSide.arrived(entries);
    if (!home) return this.#atHome(false);
    await this.#remove(await this.#context.peerSide.ownEnds.keep(entries));
    this.#record = { ...this.#record, link: undefined, side: 0, labels: [], entries: [] };
  }

  async undo(): Promise<void> {
    const { labels, openings, peerSide } = this.#context;
    const { home, link } = this.#record;
    await this.#queueRelease?.cancel();
    if (!home) await openings.close({ link });
    await peerSide.unplace(this.#record.entries);
    await this.#remove(this.#record.entries);
    labels.release(this.#drawn);
  }

  async #remove(entries: readonly CellFlow[]): Promise<void> {
    const { datapath } = this.#context;
    const { link, side, home } = this.#record;
    await datapath.removeLocals(entries);
    if (link !== undefined) await datapath.removeSide(side);
    if (link !== undefined && !home) await datapath.removeInside(link.ifindex);
    if (link !== undefined) await destroyLink(link.name);
    await datapath.removeIfEmpty();
  }

  /** New flows to its old endpoints come to a cell that is not at home by these; `openings.close` takes them out. */
  #acceptsIn({ ifindex }: CellLink): Accept[] {
    const { home, side } = this.#record;
    if (home) return [];
    const endpoints = this.#snapshot.forwarding?.endpoints ?? [];
    return acceptsOf(labelsTo(endpoints, this.labels), { side, scope: ifindex });
  }

  #side(state: 'queued' | 'home'): Side {
    return { id: this.#record.side, state, active: 0, accept: acceptOf(0), ifindex: 0 };
  }
}
