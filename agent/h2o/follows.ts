/**
 * New flows of this host to old endpoints of cells that live elsewhere (FOLLOW): rules in the datapath, each with a lease,
 * and the flows that these have created. At the host whose address it is, also new flows of other hosts.
 */
import { type Endpoint, endpointKey, type Flow, isSameEndpoint } from '../address.ts';
import { type Labels, PROGRAM_LABELS } from '../cell/labels.ts';
import type { Datapath } from '../datapath/datapath.ts';
import { halfOf } from '../datapath/halves.ts';
import { acceptOf, type FlowId, RELAY } from '../datapath/model.ts';
import { FLOWS_PER_RULE_MAX, type Follow } from '../datapath/rules.ts';
import { keyOf } from '../datapath/table.ts';
import { ethernetDevices, isOwnAddress } from '../host/routes.ts';
import type { Ended, FollowBody } from '../wire/h2o-follow.ts';
import type { Label } from '../wire/h2o-layout.ts';
import { type PeerFlow, type PeerRecord, type PeerRecords, placeOf } from './peer-records.ts';
import type { WireSlots } from './wire-slots.ts';

/** What the programs have created is read this often; a HELLO reads it at once. */
const LOOK_MS = 6_000;
/** Endpoints of a cell that are kept as known to this host, the newest. */
const ENDPOINTS_MAX = 64;

/** What a record keeps of its last FOLLOW. */
export type FollowState = { readonly until: number; readonly labels: readonly Label[] };

type Needs = {
  readonly datapath: Datapath;
  readonly labels: Labels;
  readonly records: PeerRecords;
  readonly slots: WireSlots;
  readonly log: { info(fields: object, message: string): void };
};

export class Follows {
  readonly #needs: Needs;
  /** Flows that this host relays under another name than their cell knows, by the name on the wire. */
  #relayed = new Map<string, FlowId>();
  #lookedAt = 0;

  constructor(needs: Needs) {
    this.#needs = needs;
  }

  /** After a restart: rules and flows are in the kernel still. */
  load(): void {
    for (const record of this.#followed()) this.#hold(record);
    this.#indexRelayed();
  }

  /** The cell may say later that new flows to these endpoints follow it: it has proved to be there. */
  static remember(record: PeerRecord, flows: readonly FlowId[]): void {
    const names = flows.map(({ protocol, remote }) => endpointKey(protocol, remote));
    record.endpoints = [...new Set([...(record.endpoints ?? []), ...names])].slice(-ENDPOINTS_MAX);
  }

  /** A FOLLOW. Endpoints that this host never had a flow with, as far as this cell has proved, are left out. */
  async set(record: PeerRecord, { leaseSeconds, labels }: Omit<FollowBody, 'ended'>): Promise<void> {
    const known = new Set(record.endpoints ?? []);
    const allowed = labels.filter(({ protocol, virtual }) => known.has(endpointKey(protocol, virtual)));
    if (allowed.length < labels.length)
      this.#needs.log.info(
        { cell_id: record.cell, strange: labels.length - allowed.length },
        'new flows to endpoints that the cell was never seen at do not follow it',
      );
    record.lapsedAt = undefined;
    if (leaseSeconds === 0 || allowed.length === 0) return this.end(record);
    await this.#enter(record, { until: Date.now() + leaseSeconds * 1_000, labels: allowed });
  }

  /** Of the record's flows those that are relayed under ports, or with labels of the cell's, that nobody uses any more. */
  async over(record: PeerRecord, ended: readonly Ended[]): Promise<PeerFlow[]> {
    if (ended.length === 0) return [];
    await this.take();
    return [...record.flows.values()].filter((flow) => isOver(flow, record, ended));
  }

  /** After the flip of a MOVE, which must not wait for it: rules lead to where the cell is, and so do flows that came up since. */
  async moved(record: PeerRecord, labels: readonly Label[]): Promise<void> {
    const { follow } = record;
    if (follow === undefined) return;
    const wires = new Map(labels.map((label) => [endpointKey(label.protocol, label.virtual), label.wire]));
    const next = follow.labels.flatMap(({ protocol, virtual }): Label[] => {
      const wire = wires.get(endpointKey(protocol, virtual));
      const isAway = wire !== undefined && !isSameEndpoint(wire, virtual);
      return isAway ? [{ protocol, virtual, wire }] : [];
    });
    if (next.length > 0) {
      await this.#enter(record, { ...follow, labels: next });
      await this.take();
    } else await this.end(record);
    await this.#redirect(record, wires);
  }

  /** Their first packets were dropped where the cell has left; the next ones go where it is. */
  async #redirect(record: PeerRecord, wires: ReadonlyMap<string, Endpoint>): Promise<void> {
    const late: PeerFlow[] = [];
    for (const flow of record.flows.values()) {
      const wire = wires.get(endpointKey(flow.id.protocol, flow.id.remote));
      const now = flow.wireRemote[record.active]?.endpoint;
      if (wire === undefined || (now !== undefined && isSameEndpoint(now, wire))) continue;
      const slot = await this.#needs.slots.of(wire);
      flow.wireRemote = record.active === 0 ? [slot, undefined] : [undefined, slot];
      late.push(flow);
    }
    if (late.length === 0) return;
    const remoteSide = record.side;
    await this.#needs.datapath.putRemotes(
      late.map(({ id, wireRemote }) => ({ ...id, wireRemote, remoteSide })),
    );
    this.#needs.records.save(record);
  }

  /** No new flows from now on; those that have begun go on. */
  async end(record: PeerRecord): Promise<void> {
    const { follow } = record;
    if (follow === undefined) return;
    const { datapath, labels } = this.#needs;
    await datapath.removeRules(follow.labels.map((label) => ruleOf(record, label)));
    await this.take();
    record.follow = undefined;
    labels.letGo(holder(record));
  }

  /** Ended leases, and what the programs have created since the last look. */
  async sweep(): Promise<void> {
    const now = Date.now();
    for (const record of this.#followed()) {
      if ((record.follow?.until ?? 0) > now) continue;
      this.#needs.log.info({ cell_id: record.cell }, 'the lease has ended: new flows do not follow the cell');
      await this.end(record);
      record.lapsedAt = now;
      this.#needs.records.save(record);
    }
    if (this.#followed().length === 0 || now - this.#lookedAt < LOOK_MS) return;
    this.#lookedAt = now;
    await this.take();
    // Rules may create as many anew as have ended.
    await this.#needs.datapath.removeCreated(() => false);
  }

  /** From here on created flows are flows of their record, as any other. */
  async take(): Promise<void> {
    const { datapath, records, labels } = this.#needs;
    const bySide = new Map(this.#followed().map((record) => [record.side, record]));
    if (bySide.size === 0) return;
    const changed = new Set<PeerRecord>();
    for (const entry of await datapath.refresh()) {
      const record = bySide.get(entry.remoteSide);
      if (record === undefined) continue;
      const { protocol, local, remote, scope, wireRemote } = entry;
      const id = { protocol, local, remote, scope };
      const known = record.flows.get(keyOf(id));
      const own = halfOf(entry);
      const flow: PeerFlow = { id, wireRemote, missing: known?.missing ?? 0, ...(own && { own }) };
      records.take(record, flow);
      if (known !== undefined) continue;
      changed.add(record);
      if (scope === RELAY) labels.take([{ protocol, port: entry.wireLocal.port }]);
    }
    for (const record of changed) records.save(record);
    this.#indexRelayed();
  }

  /** The flow that a cell knows by this name, where this host relays it under that name. */
  relayedAs({ protocol, local, remote }: Flow): FlowId | undefined {
    const id = this.#relayed.get(endpointKey(protocol, local));
    return id !== undefined && isSameEndpoint(id.remote, remote) ? id : undefined;
  }

  #indexRelayed(): void {
    const all = this.#needs.records.all().flatMap(({ flows }) => [...flows.values()]);
    this.#relayed = new Map(
      all.flatMap(({ id, own }) =>
        id.scope === RELAY && own !== undefined
          ? [[endpointKey(id.protocol, own.wireLocal), id] as const]
          : [],
      ),
    );
  }

  #followed(): PeerRecord[] {
    return this.#needs.records.all().filter(({ follow }) => follow !== undefined);
  }

  async #enter(record: PeerRecord, next: FollowState): Promise<void> {
    const { datapath } = this.#needs;
    const { side: id, active, armedAt, follow } = record;
    if (armedAt === undefined)
      await datapath.putSide({ id, state: 'moved', active, accept: acceptOf(active), ifindex: 0 });
    record.follow = next;
    this.#hold(record);
    if (next.labels.some(isHome)) {
      for (const device of ['lo', ...(await ethernetDevices())]) await datapath.attachDevice(device);
    }
    const rules: Follow[] = [];
    for (const label of next.labels) {
      const to = await this.#needs.slots.of(label.wire);
      rules.push({ ...ruleOf(record, label), to });
    }
    await datapath.putRules(rules);
    const kept = new Set(next.labels.map(({ protocol, virtual }) => endpointKey(protocol, virtual)));
    const gone = (follow?.labels ?? []).filter(
      ({ protocol, virtual }) => !kept.has(endpointKey(protocol, virtual)),
    );
    await datapath.removeRules(gone.map((label) => ruleOf(record, label)));
  }

  /** Where this host relays, the programs draw ports of their own: nothing else may use these. */
  #hold(record: PeerRecord): void {
    if (record.follow?.labels.some(isHome)) this.#needs.labels.hold(holder(record));
  }
}

function isOver(flow: PeerFlow, record: PeerRecord, ended: readonly Ended[]): boolean {
  const { id, own } = flow;
  const relayed = id.scope === RELAY ? own?.wireLocal.port : undefined;
  const label = placeOf(flow, record)?.endpoint.port;
  return ended.some(
    ({ protocol, port, ofCell }) => protocol === id.protocol && port === (ofCell ? label : relayed),
  );
}

function holder({ side }: PeerRecord): string {
  return `follow ${side}`;
}

/** Its address is this host's own: others ask this host for it. */
function isHome({ virtual }: Label): boolean {
  return isOwnAddress(virtual.address);
}

function ruleOf({ side }: PeerRecord, label: Label): Follow {
  return {
    kind: 'follow',
    protocol: label.protocol,
    remote: label.virtual,
    to: { endpoint: label.wire, ifindex: 0 },
    remoteSide: side,
    flowsMax: FLOWS_PER_RULE_MAX,
    ...(isHome(label) ? { labels: PROGRAM_LABELS } : {}),
  };
}
