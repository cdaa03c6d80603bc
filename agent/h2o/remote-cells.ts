/** What the datapath of this host has for cells of other hosts: armed, flipped, held, forgotten. */
import { type Endpoint, endpointKey, endpointText, type PlacedFlow } from '../address.ts';
import type { Datapath } from '../datapath/datapath.ts';
import { acceptOf, type FlowId, type RemoteHalf } from '../datapath/model.ts';
import { keyOf } from '../datapath/table.ts';
import { OsmosisError } from '../error.ts';
import type { Ended } from '../wire/h2o-follow.ts';
import type { Label } from '../wire/h2o-layout.ts';
import { Follows } from './follows.ts';
import type { OwnEnds } from './own-ends.ts';
import { isAway, isPlain, onlySlot } from './peer-flows.ts';
import { type PeerFlow, type PeerRecord, type PeerRecords, placeOf } from './peer-records.ts';
import type { Turns } from './turns.ts';
import type { WireSlots } from './wire-slots.ts';

/** A flow that arrives with a cell gets this many looks more: its process has to be restored first. */
const ARRIVAL_LOOKS_MAX = 120;
const BOTH_SLOTS = acceptOf(0, 1);

type Needs = {
  readonly datapath: Datapath;
  readonly records: PeerRecords;
  readonly follows: Follows;
  readonly ownEnds: OwnEnds;
  readonly slots: WireSlots;
  readonly turns: Turns;
  /** A label may have belonged to a cell that has ended: its flows must not be in the way. */
  readonly dropEnded: () => Promise<void>;
  readonly log: { info(fields: object, message: string): void };
};

export class RemoteCells {
  readonly #needs: Needs;

  constructor(needs: Needs) {
    this.#needs = needs;
  }

  /** Flows that arrive here with a cell, those among them whose other ends have moved. */
  async place(scope: number, flows: readonly PlacedFlow[]): Promise<void> {
    const away = flows.filter(({ at, remote }) => endpointText(at) !== endpointText(remote));
    if (away.length === 0) return;
    await this.#needs.dropEnded();
    const byHost = Map.groupBy(away, ({ at }) => at.address);
    for (const there of byHost.values()) await this.#placeOn(scope, there);
  }

  async #placeOn(scope: number, flows: readonly PlacedFlow[]): Promise<void> {
    const record = this.#needs.records.create('', undefined);
    if (record === undefined)
      throw new OsmosisError('DATAPATH', 'this host follows as many cells as it can; choose another host');
    await this.#needs.datapath.putSide({
      id: record.side,
      state: 'moved',
      active: 0,
      accept: acceptOf(0),
      ifindex: 0,
    });
    for (const { protocol, local, remote, at } of flows) {
      const wireRemote = [await this.#needs.slots.of(at), undefined] as const;
      this.#needs.records.take(record, {
        id: { protocol, local, remote, scope },
        wireRemote,
        missing: -ARRIVAL_LOOKS_MAX,
      });
    }
    await this.#put(record, [...record.flows.values()]);
    this.#needs.records.save(record);
  }

  async unplace(ids: readonly FlowId[]): Promise<void> {
    const { records } = this.#needs;
    for (const [record, its] of Map.groupBy(ids, (id) => records.owner(id))) {
      if (record === undefined) continue;
      const flows = its.flatMap((id) => record.flows.get(keyOf(id)) ?? []);
      await this.dropFlows(record, flows);
      if (record.flows.size === 0) await this.forget(record);
      else records.save(record);
    }
  }

  /** What this host says to the cell goes to where it is armed. */
  async engage(cell: string): Promise<void> {
    for (const { side: id, active, armedAt } of this.#needs.records.of(cell)) {
      const next = active === 0 ? 1 : 0;
      if (armedAt !== undefined)
        await this.#needs.datapath.putSide({
          id,
          state: 'moved',
          active: next,
          accept: BOTH_SLOTS,
          ifindex: 0,
        });
    }
  }

  /** The new place is understood from here on; packets to the cell still go to the old one. */
  async arm(record: PeerRecord, ids: readonly FlowId[], wires: ReadonlyMap<string, Endpoint>): Promise<void> {
    const armed: PeerFlow[] = [];
    for (const id of ids) {
      const wire = wires.get(endpointKey(id.protocol, id.remote));
      if (wire === undefined) continue;
      const owner = this.#needs.records.owner(id);
      const known = owner?.flows.get(keyOf(id));
      const current = (owner && known && placeOf(known, owner)) ?? (await this.#needs.slots.of(id.remote));
      // A cell that is to be suspended announces the place where it is.
      const isThere = endpointText(current.endpoint) === endpointText(wire);
      const next = isThere ? undefined : await this.#needs.slots.of(wire);
      const wireRemote = record.active === 0 ? ([current, next] as const) : ([next, current] as const);
      armed.push({ id, wireRemote, missing: 0, own: this.#needs.ownEnds.offered(id) ?? known?.own });
    }
    record.plainAt = undefined;
    await this.#needs.datapath.putSide({
      id: record.side,
      state: 'armed',
      active: record.active,
      accept: BOTH_SLOTS,
      ifindex: 0,
    });
    for (const flow of armed) this.#needs.records.take(record, flow);
    Follows.remember(record, ids);
    await this.#needs.datapath.putLocals(armed.flatMap(({ own }) => own ?? []));
    await this.#put(record, armed);
    record.armedAt = Date.now();
  }

  async #put({ side }: PeerRecord, flows: readonly PeerFlow[]): Promise<void> {
    const half = ({ id, wireRemote }: PeerFlow): RemoteHalf => ({ ...id, wireRemote, remoteSide: side });
    await this.#needs.datapath.putRemotes(flows.map(half));
  }

  /** Packets to the cell go to its active slot, and come from there only. */
  async #switch({ side: id, active }: PeerRecord, state: 'moved' | 'held'): Promise<void> {
    await this.#needs.datapath.putSide({ id, state, active, accept: acceptOf(active), ifindex: 0 });
  }

  /** Suspended for any length of time: what is armed stays so. */
  async hold(record: PeerRecord): Promise<void> {
    record.armedAt = undefined;
    record.heldAt ??= Date.now();
    await this.#switch(record, 'held');
  }

  /** One update flips every flow of the cell. Labels other than the armed ones, which nobody had proved, come first. */
  async move(record: PeerRecord, labels: readonly Label[]): Promise<void> {
    const next = record.active === 0 ? 1 : 0;
    const started = performance.now();
    await this.#correct(record, labels, next);
    await this.#switch({ ...record, active: next }, 'moved');
    const flip_ms = performance.now() - started;
    record.active = next;
    record.armedAt = undefined;
    record.heldAt = undefined;
    await this.#needs.follows.moved(record, labels);
    record.plainAt = isPlain(record) ? Date.now() : undefined;
    const to = [...new Set(labels.map(({ wire }) => wire.address))];
    this.#needs.log.info({ cell: record.cell, flows: record.flows.size, to, flip_ms }, 'cell moved');
  }

  async #correct(record: PeerRecord, labels: readonly Label[], next: 0 | 1): Promise<void> {
    const wires = new Map(
      labels.map(({ protocol, virtual, wire }) => [endpointKey(protocol, virtual), wire]),
    );
    const wrong: PeerFlow[] = [];
    for (const flow of record.flows.values()) {
      const wire = wires.get(endpointKey(flow.id.protocol, flow.id.remote));
      const armed = flow.wireRemote[next]?.endpoint;
      if (wire === undefined || (armed !== undefined && endpointText(armed) === endpointText(wire))) continue;
      const slot = await this.#needs.slots.of(wire);
      const active = flow.wireRemote[record.active];
      // A suspended cell may come back to where it was.
      const current =
        active === undefined || endpointText(active.endpoint) === endpointText(wire) ? undefined : active;
      flow.wireRemote = next === 0 ? [slot, current] : [current, slot];
      wrong.push(flow);
    }
    if (wrong.length === 0) return;
    await this.#put(record, wrong);
    this.#needs.records.saveFlows(record);
  }

  /** The move will not happen: the cell goes on where it is, and flows that are where they began need no entries. */
  async disarm(record: PeerRecord): Promise<void> {
    if (record.armedAt === undefined) return;
    record.armedAt = undefined;
    const flows = [...record.flows.values()];
    await this.dropFlows(
      record,
      flows.filter((flow) => !isAway(flow, record)),
    );
    if (record.flows.size === 0) return;
    for (const flow of record.flows.values()) flow.wireRemote = onlySlot(flow.wireRemote, record.active);
    await this.#switch(record, 'moved');
    await this.#put(record, [...record.flows.values()]);
  }

  async forget(record: PeerRecord): Promise<void> {
    await this.#needs.follows.end(record);
    await this.dropFlows(record, [...record.flows.values()]);
    this.#needs.records.forget(record);
  }

  async dropFlows(record: PeerRecord, flows: readonly PeerFlow[]): Promise<void> {
    await this.#needs.datapath.removeRemotes(flows.map(({ id }) => id));
    const own = flows.flatMap((flow) => flow.own ?? []);
    await this.#needs.datapath.removeLocals(own);
    // What is offered again, to a migration that tries once more, keeps its label.
    this.#needs.ownEnds.release(own.filter((half) => this.#needs.ownEnds.offered(half) === undefined));
    this.#needs.records.drop(record, flows);
    await this.tidy(record);
  }

  async dropOver(record: PeerRecord, ended: readonly Ended[]): Promise<void> {
    const over = await this.#needs.follows.over(record, ended);
    if (over.length === 0) return;
    await this.dropFlows(record, over);
    // Their labels, and room for others.
    await this.#needs.datapath.removeCreated(() => false);
    this.#needs.records.saveFlows(record);
  }

  /** A side serves its flows, and rules. */
  async tidy(record: PeerRecord): Promise<void> {
    if (record.flows.size === 0 && record.follow === undefined) await this.#removeSide(record);
  }

  async #removeSide({ side }: PeerRecord): Promise<void> {
    await this.#needs.datapath.removeSide(side);
    await this.#needs.datapath.removeIfEmpty();
    // The devices may be detached now: whoever arms next attaches them anew.
    this.#needs.slots.clear();
  }
}
