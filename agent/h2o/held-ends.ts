/**
 * Ends of this host's for cells that are suspended: what goes along when such an end moves to another host, so that the cell
 * finds it there once it is back. Nobody else can tell the two of each other then.
 */
import { isLinkLocal, isLoopback, type PlacedFlow } from '../address.ts';
import type { RemoteHeld } from '../control/protocol.ts';
import type { Datapath } from '../datapath/datapath.ts';
import { acceptOf, type FlowId } from '../datapath/model.ts';
import { keyOf } from '../datapath/table.ts';
import { OsmosisError } from '../error.ts';
import { ownInterfaceAddresses } from '../host/routes.ts';
import { areListed } from '../wire/h2o-labels.ts';
import { HOPS_MAX, type Label } from '../wire/h2o-layout.ts';
import type { PeerState } from '../wire/h2o-peer.ts';
import { sessionTag } from '../wire/h2o-session.ts';
import type { Handed } from './handed-over.ts';
import { onlySlot } from './peer-flows.ts';
import { ARRIVAL_LOOKS_MAX, type PeerRecord, type PeerRecords, placeOf } from './peer-records.ts';
import type { WireSlots } from './wire-slots.ts';

/** Who resumes a cell has been told where these ends are, and has brought it back by then. */
const RETURNING_MS_MAX = 30_000;
/** Of a host, that are remembered. */
const ORIGIN_ADDRESSES_MAX = 256;

type Needs = {
  readonly datapath: Pick<Datapath, 'putSide' | 'putRemotes'>;
  readonly records: PeerRecords;
  readonly slots: WireSlots;
};

export class HeldEnds {
  readonly #needs: Needs;
  /** That are on their way to another host: what their cells say meanwhile is said again. */
  readonly #leaving = new WeakSet<PeerRecord>();

  constructor(needs: Needs) {
    this.#needs = needs;
  }

  /** Those of these flows whose other ends are suspended. */
  among(ids: readonly FlowId[]): FlowId[] {
    return ids.filter((id) => this.#needs.records.owner(id)?.heldAt !== undefined);
  }

  isLeaving(record: PeerRecord): boolean {
    return this.#leaving.has(record);
  }

  /**
   * The keys with the suspended cells that `ids` are flows with, which are all that this host has with them.
   * @throws OsmosisError FLOWS_CHANGED where one is back, or has other flows here that stay.
   */
  check(ids: readonly FlowId[]): PeerRecord[] {
    const { records } = this.#needs;
    const going = new Set(ids.map(keyOf));
    const found = [...new Set(ids.flatMap((id) => records.owner(id) ?? []))];
    const now = Date.now();
    const isReturning = ({ claimedAt = Number.NEGATIVE_INFINITY }: PeerRecord) =>
      now - claimedAt < RETURNING_MS_MAX;
    const isWhole = ({ flows, heldAt }: PeerRecord) =>
      heldAt !== undefined &&
      [...flows.values()].every(({ id, own }) => going.has(keyOf(id)) && own === undefined);
    if (found.some(({ hops = 0 }) => hops >= HOPS_MAX))
      throw new OsmosisError(
        'PREFLIGHT',
        `it can't be moved: it has been on ${HOPS_MAX} hosts since the process at the other end of a connection was suspended, ` +
          'and that could not find it any more; it goes on at the source. Resume that one first.',
        { phase: 'prepare' },
      );
    if (
      ids.every((id) => records.owner(id) !== undefined) &&
      found.every(isWhole) &&
      !found.some(isReturning)
    )
      return found;
    throw new OsmosisError(
      'FLOWS_CHANGED',
      'a process at the other end of a connection is suspended, and has connections with others of this host as well, or is ' +
        'just coming back; this one goes on at the source. Try again once it is back.',
      { phase: 'prepare' },
    );
  }

  /** From here on nothing of these cells is accepted here. */
  handOut(ids: readonly FlowId[]): RemoteHeld[] {
    return this.check(ids).map((record) => {
      this.#leaving.add(record);
      const {
        cell,
        state,
        heldAt = 0,
        hops = 0,
        passedFrom: origin = ownAddressList(),
        endpoints = [],
        flows,
      } = record;
      if (state === undefined) throw new Error('a suspended cell without keys');
      return {
        cell,
        state: stateOf(state),
        held_at: heldAt,
        hops: hops + 1,
        origin: [...origin],
        endpoints: [...endpoints],
        flows: [...flows.values()].map((flow) => {
          const { protocol, local, remote } = flow.id;
          const at = placeOf(flow, record)?.endpoint ?? remote;
          const { userTimeout } = flow;
          const placed = { protocol, local, remote, at };
          return userTimeout === undefined ? placed : { ...placed, user_timeout: userTimeout };
        }),
      };
    });
  }

  /** Cells that are suspended still, at the other ends of these flows, which are here now. */
  of(ids: readonly FlowId[]): PeerRecord[] {
    const found = new Set(ids.flatMap((id) => this.#needs.records.owner(id) ?? []));
    return [...found].filter(({ heldAt }) => heldAt !== undefined);
  }

  /** They stay after all. */
  keep(ids: readonly FlowId[]): void {
    for (const id of ids) {
      const record = this.#needs.records.owner(id);
      if (record !== undefined) this.#leaving.delete(record);
    }
  }

  /** `ends`: where these flows' ends are from now on, by the names that their cell has for them. */
  async adopt(
    scope: number,
    { cell, state, held_at, hops, origin, endpoints, flows }: RemoteHeld,
    ends: readonly Label[],
  ): Promise<void> {
    const { records, datapath, slots } = this.#needs;
    const { past, last, ...rest } = state;
    const record = records.create(cell, { ...rest, ends, ...(past && { past }), ...(last && { last }) });
    if (record === undefined)
      throw new OsmosisError('DATAPATH', 'this host follows as many cells as it can; choose another host');
    record.heldAt = held_at;
    const isBack = ownAddressList().some((address) => origin.includes(address));
    record.hops = isBack ? undefined : hops;
    record.passedFrom = isBack ? undefined : origin;
    record.endpoints = endpoints;
    await datapath.putSide({ id: record.side, state: 'held', active: 0, accept: acceptOf(0), ifindex: 0 });
    for (const { protocol, local, remote, at, user_timeout } of flows) {
      const slot = await slots.of(at);
      records.take(record, {
        id: { protocol, local, remote, scope },
        wireRemote: onlySlot([slot, slot], 0),
        userTimeout: user_timeout,
        missing: -ARRIVAL_LOOKS_MAX,
      });
    }
    await datapath.putRemotes(
      [...record.flows.values()].map(({ id, wireRemote }) => ({
        ...id,
        wireRemote,
        remoteSide: record.side,
      })),
    );
    records.save(record);
  }
}

function ownAddressList(): string[] {
  return ownInterfaceAddresses()
    .map(({ address }) => address)
    .filter((address) => !isLoopback(address) && !isLinkLocal(address))
    .slice(0, ORIGIN_ADDRESSES_MAX);
}

/** Without what can be computed anew. */
function stateOf({ pair, secretKey, epoch, armed, past, last }: PeerState): RemoteHeld['state'] {
  return {
    pair,
    secretKey,
    epoch,
    armed: armed.map(({ transaction, parts }) => ({ transaction, parts: parts.map((part) => [...part]) })),
    ...(past && { past: [...past] }),
    ...(last && { last }),
  };
}

/** Whether one ACK can say where all of these ends have gone: one label an endpoint. */
export function areTellable(flows: readonly Pick<PlacedFlow, 'protocol' | 'local' | 'known'>[]): boolean {
  return areListed(
    flows.map(({ protocol, local, known = local }) => ({ protocol, virtual: known, wire: known })),
  );
}

/** By what a message of the cell is known once it has been handed over to the host at `to`. */
export function handedTo(to: string, { cell, state }: Pick<RemoteHeld, 'cell' | 'state'>): Handed {
  return { cell, tag: Buffer.from(sessionTag(state.pair)).toString('hex'), to };
}
