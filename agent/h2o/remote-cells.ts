/** What the datapath of this host has for cells of other hosts: armed, flipped, held, forgotten. */
import { type Endpoint, endpointKey, isSameEndpoint, type PlacedFlow } from '../address.ts';
import type { Datapath } from '../datapath/datapath.ts';
import { acceptOf, type FlowId, type RemoteHalf, type WireSlot } from '../datapath/model.ts';
import { keyOf } from '../datapath/table.ts';
import { OsmosisError } from '../error.ts';
import type { Turns } from '../turns.ts';
import type { Ended } from '../wire/h2o-follow.ts';
import type { Label, UdpPolicy } from '../wire/h2o-layout.ts';
import { Follows } from './follows.ts';
import type { HeldDatagrams } from './held-datagrams.ts';
import type { HeldSockets } from './held-sockets.ts';
import type { OwnEnds } from './own-ends.ts';
import { isAway, isPlain, onlySlot } from './peer-flows.ts';
import {
  ARRIVAL_LOOKS_MAX,
  type PeerFlow,
  type PeerRecord,
  type PeerRecords,
  placeOf,
} from './peer-records.ts';
import type { Wakes } from './wakes.ts';
import type { WireSlots } from './wire-slots.ts';

const BOTH_SLOTS = acceptOf(0, 1);

type Needs = {
  readonly datapath: Datapath;
  readonly records: PeerRecords;
  readonly follows: Follows;
  readonly ownEnds: OwnEnds;
  readonly slots: WireSlots;
  readonly turns: Turns;
  readonly heldSockets: HeldSockets;
  readonly wakes: Wakes;
  readonly heldDatagrams: HeldDatagrams;
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
    const away = flows.filter(({ at, remote }) => !isSameEndpoint(at, remote));
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

  /** Routes may lead by other devices now: packets to cells elsewhere leave by those. */
  async reroute(): Promise<void> {
    const { records, slots } = this.#needs;
    slots.clear();
    const routed = async (slot: WireSlot | undefined) =>
      slot && (await slots.of(slot.endpoint).catch(() => slot));
    for (const record of records.all()) {
      const changed: PeerFlow[] = [];
      for (const flow of record.flows.values()) {
        const [first, second] = flow.wireRemote;
        const now = [await routed(first), await routed(second)] as const;
        if (now.every((slot, index) => slot?.ifindex === flow.wireRemote[index]?.ifindex)) continue;
        flow.wireRemote = now;
        changed.push(flow);
      }
      if (changed.length === 0) continue;
      await this.#put(record, changed);
      records.saveFlows(record);
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
      const isThere = isSameEndpoint(current.endpoint, wire);
      const next = isThere ? undefined : await this.#needs.slots.of(wire);
      const wireRemote = record.active === 0 ? ([current, next] as const) : ([next, current] as const);
      const own = this.#needs.ownEnds.offered(id) ?? known?.own;
      armed.push({ id, wireRemote, missing: 0, own, userTimeout: known?.userTimeout });
    }
    await this.#understandBoth(record);
    for (const flow of armed) this.#needs.records.take(record, flow);
    // What is to be moved is said anew: nothing else comes along.
    this.#needs.records.unclaim(record, claimedBy(record));
    Follows.remember(record, ids);
    await this.#needs.datapath.putLocals(armed.flatMap(({ own }) => own ?? []));
    await this.#put(record, armed);
    record.armedAt = Date.now();
    // Where it is: it is to be suspended.
    const isStaying = armed.every(({ wireRemote }) => wireRemote.includes(undefined));
    if (isStaying && record.heldAt === undefined) this.#needs.heldDatagrams.prepare(record);
  }

  /** The same for what a sealed part of an arming says of the flows that the cell has here already, or has claimed. */
  async armListed(record: PeerRecord, labels: readonly Label[]): Promise<void> {
    const next = record.active === 0 ? 1 : 0;
    await this.#takeClaimed(record, labels);
    const wires = wiresOf(labels);
    const armed = new Map<PeerFlow, RemoteHalf['wireRemote']>();
    for (const flow of record.flows.values()) {
      const wire = wires.get(endpointKey(flow.id.protocol, flow.id.remote));
      const current = placeOf(flow, record);
      if (wire === undefined) continue;
      const isThere = current !== undefined && isSameEndpoint(current.endpoint, wire);
      const slots = isThere
        ? onlySlot(flow.wireRemote, record.active)
        : twoSlots(await this.#needs.slots.of(wire), current, next);
      armed.set(flow, slots);
    }
    await this.#understandBoth(record);
    await this.#put(
      record,
      [...armed].map(([flow, wireRemote]) => ({ ...flow, wireRemote })),
    );
    for (const [flow, wireRemote] of armed) flow.wireRemote = wireRemote;
    record.armedAt = Date.now();
  }

  async #understandBoth(record: PeerRecord): Promise<void> {
    record.plainAt = undefined;
    await this.#needs.datapath.putSide({
      id: record.side,
      // Nobody is at its old place.
      state: record.heldAt === undefined ? 'armed' : 'held',
      active: record.active,
      accept: BOTH_SLOTS,
      ifindex: 0,
      ...waitingOf(record),
    });
  }

  async #put({ side }: PeerRecord, flows: readonly PeerFlow[]): Promise<void> {
    const half = ({ id, wireRemote }: PeerFlow): RemoteHalf => ({ ...id, wireRemote, remoteSide: side });
    await this.#needs.datapath.putRemotes(flows.map(half));
  }

  /** Packets to the cell go to its active slot, and come from there only. */
  async #switch(record: PeerRecord, state: 'moved' | 'held'): Promise<void> {
    const { side: id, active } = record;
    const accept = acceptOf(active);
    await this.#needs.datapath.putSide({ id, state, active, accept, ifindex: 0, ...waitingOf(record) });
  }

  /** False: it takes a moment more until datagrams can wait. */
  canPause(record: PeerRecord): boolean {
    return !isArmedOnly(record) || this.#needs.heldDatagrams.isReady(record);
  }

  /** About to be frozen, and then suspended: datagrams wait, and nothing else changes until that is so or is taken back. */
  async pause(record: PeerRecord): Promise<void> {
    const { side: id, active } = record;
    if (!isArmedOnly(record) || !this.#needs.heldDatagrams.pause(record)) return;
    const waiting = { accept: BOTH_SLOTS, ifindex: 0, ...waitingOf(record) };
    await this.#needs.datapath.putSide({ id, state: 'armed', active, ...waiting });
  }

  /** Suspended for any length of time: what is armed stays so. */
  async hold(record: PeerRecord, udp: UdpPolicy): Promise<void> {
    const isFirst = record.heldAt === undefined;
    record.armedAt = undefined;
    if (record.heldAt !== undefined) record.claimedAt = Date.now();
    record.heldAt ??= Date.now();
    this.#needs.wakes.end(record);
    if (isFirst)
      this.#needs.heldDatagrams.hold(record, udp, () =>
        this.#needs.turns.run(async () => {
          if (record.heldAt !== undefined) await this.#switch(record, 'held');
        }),
      );
    await this.#switch(record, 'held');
    this.#needs.heldSockets.lift(record);
  }

  /** One update flips every flow of the cell. Labels other than the armed ones, which nobody had proved, come first. */
  async move(record: PeerRecord, labels: readonly Label[]): Promise<void> {
    const next = record.active === 0 ? 1 : 0;
    const started = performance.now();
    await this.#takeClaimed(record, labels);
    await this.#correct(record, labels, next);
    await this.#switch({ ...record, active: next }, 'moved');
    const flip_ms = performance.now() - started;
    if (record.heldAt !== undefined) this.#needs.wakes.begin(record);
    record.active = next;
    record.armedAt = undefined;
    record.heldAt = undefined;
    record.hops = undefined;
    record.claimedAt = undefined;
    this.#needs.heldDatagrams.release(record);
    await this.#needs.follows.moved(record, labels);
    record.plainAt = isPlain(record) ? Date.now() : undefined;
    const to = [...new Set(labels.map(({ wire }) => wire.address))];
    this.#needs.log.info(
      { cell_id: record.cell, flows: record.flows.size, to, flip_ms },
      'a cell elsewhere has moved: its connections with this host go there',
    );
  }

  /** What the cell has claimed and never armed, because nobody knew that it would move: listed, so it comes along. */
  async #takeClaimed(record: PeerRecord, labels: readonly Label[]): Promise<void> {
    const { records, datapath, slots } = this.#needs;
    const wires = wiresOf(labels);
    const taken: PeerFlow[] = [];
    for (const id of claimedBy(record)) {
      const wire = wires.get(endpointKey(id.protocol, id.remote));
      const owner = records.owner(id);
      if (wire === undefined || (owner !== undefined && (owner.state?.pair.epoch ?? 0) > 0)) continue;
      const known = owner?.flows.get(keyOf(id));
      // Nothing goes to its old place any more, so there is no asking for the way there: this may be in a blackout.
      const current = (owner && known && placeOf(known, owner)) ?? {
        ...(await slots.of(wire)),
        endpoint: id.remote,
      };
      taken.push({
        id,
        wireRemote: onlySlot([current, current], record.active),
        missing: 0,
        own: known?.own,
      });
    }
    if (taken.length === 0) return;
    if (record.flows.size === 0)
      await datapath.putSide({
        id: record.side,
        state: 'home',
        active: record.active,
        accept: acceptOf(record.active),
        ifindex: 0,
      });
    const ids = taken.map(({ id }) => id);
    for (const flow of taken) records.take(record, flow);
    records.unclaim(record, ids);
    Follows.remember(record, ids);
  }

  async #correct(record: PeerRecord, labels: readonly Label[], next: 0 | 1): Promise<void> {
    const wires = wiresOf(labels);
    const right = new Map<PeerFlow, RemoteHalf['wireRemote']>();
    // The flip waits for this, and thousands of flows have one endpoint: it is looked up once where they follow each other.
    let [last, lastListed]: [PeerFlow['id'] | undefined, Endpoint | undefined] = [undefined, undefined];
    for (const flow of record.flows.values()) {
      const { id } = flow;
      if (last === undefined || last.protocol !== id.protocol || !isSameEndpoint(last.remote, id.remote))
        [last, lastListed] = [id, wires.get(endpointKey(id.protocol, id.remote))];
      const armed = flow.wireRemote[next]?.endpoint;
      const current = flow.wireRemote[record.active];
      // What is not said to move, and was not armed, stays where it is.
      const wire = lastListed ?? (armed === undefined ? current?.endpoint : undefined);
      if (wire === undefined || (armed !== undefined && isSameEndpoint(armed, wire))) continue;
      const slot = await this.#needs.slots.of(wire);
      const isStill = current !== undefined && isSameEndpoint(current.endpoint, wire);
      right.set(flow, isStill ? onlySlot([slot, slot], next) : twoSlots(slot, current, next));
    }
    if (right.size === 0) return;
    await this.#put(
      record,
      [...right].map(([flow, wireRemote]) => ({ ...flow, wireRemote })),
    );
    // Only what has been entered is remembered: after a failure the same MOVE does it all again.
    for (const [flow, wireRemote] of right) flow.wireRemote = wireRemote;
    this.#needs.records.saveFlows(record);
  }

  /** The move will not happen: the cell goes on where it is, and flows that are where they began need no entries. */
  async disarm(record: PeerRecord): Promise<void> {
    if (record.armedAt === undefined) return;
    record.armedAt = undefined;
    if (record.heldAt === undefined) this.#needs.heldDatagrams.release(record);
    // A suspended one is nowhere, also where its flows began.
    const still =
      record.heldAt === undefined ? [...record.flows.values()].filter((flow) => !isAway(flow, record)) : [];
    await this.dropFlows(record, still);
    if (record.keeps)
      this.#needs.records.claim(
        record,
        still.map(({ id }) => id),
      );
    if (record.flows.size === 0) return;
    for (const flow of record.flows.values()) flow.wireRemote = onlySlot(flow.wireRemote, record.active);
    await this.#switch(record, record.heldAt === undefined ? 'moved' : 'held');
    await this.#put(record, [...record.flows.values()]);
  }

  /**
   * Whoever has announced it is not trusted any more: it stays where it is, and a first contact is forgotten. Claims in the
   * background move nothing meanwhile, and are as good as before once it is trusted again.
   */
  async dropAnnounced(record: PeerRecord): Promise<void> {
    await this.disarm(record);
    const { flows, claims, heldAt, state } = record;
    const isNothing = flows.size === 0 && claims.size === 0 && heldAt === undefined;
    if (isNothing && (state?.pair.epoch ?? 0) === 0) await this.forget(record);
    else this.#needs.records.save(record);
  }

  async forget(record: PeerRecord): Promise<void> {
    this.#needs.wakes.end(record);
    await this.#needs.follows.end(record);
    await this.dropFlows(record, [...record.flows.values()]);
    this.#needs.records.forget(record);
  }

  async dropFlows(record: PeerRecord, flows: readonly PeerFlow[]): Promise<void> {
    this.#needs.heldSockets.giveBack(record, flows);
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

function wiresOf(labels: readonly Label[]): ReadonlyMap<string, Endpoint> {
  return new Map(labels.map(({ protocol, virtual, wire }) => [endpointKey(protocol, virtual), wire]));
}

function isArmedOnly({ armedAt, heldAt }: PeerRecord): boolean {
  return armedAt !== undefined && heldAt === undefined;
}

function waitingOf({ waits }: PeerRecord): { waits?: true } {
  return waits ? { waits: true } : {};
}

function claimedBy({ claims }: PeerRecord): FlowId[] {
  return [...claims.values()].map(({ id }) => id);
}

function twoSlots(
  slot: WireSlot,
  current: WireSlot | undefined,
  next: 0 | 1,
): readonly [WireSlot | undefined, WireSlot | undefined] {
  return next === 0 ? [slot, current] : [current, slot];
}
