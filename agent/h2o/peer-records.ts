/** What a host keeps of the cells that its processes talk to, in memory and on disk. */
import { randomInt } from 'node:crypto';
import {
  type FlowId,
  type LocalHalf,
  RELAY,
  type RemoteHalf,
  type RoomCounts,
  type WireSlot,
} from '../datapath/model.ts';
import { keyOf } from '../datapath/table.ts';
import { Store } from '../state/store.ts';
import type { PeerState } from '../wire/h2o-peer.ts';
import type { FollowState } from './follows.ts';
import { CELLS_MAX } from './room.ts';

/** Flows that cells have claimed and not moved, of all cells: as many as the datapath can hold. */
const CLAIMS_MAX = 65_536;

/** A flow that arrives with a cell gets this many looks more: its process has to be restored first. */
export const ARRIVAL_LOOKS_MAX = 120;

export type PeerFlow = {
  readonly id: FlowId;
  wireRemote: RemoteHalf['wireRemote'];
  /** Where its own end is not just a socket of this host: relayed, or to be reached by way of the loopback device. */
  own?: LocalHalf | undefined;
  /** TCP_USER_TIMEOUT that its socket had before the cell was suspended, in ms. */
  userTimeout?: number | undefined;
  /** Looks at the kernel in a row that did not find its socket. */
  missing: number;
};

/** A flow that a cell has shown to be its own, at a HELLO, and that is where it always was: nothing is entered for it. */
export type ClaimedFlow = {
  readonly id: FlowId;
  /** As of a `PeerFlow`. */
  missing: number;
};

export type Announcer = { readonly address: string; readonly identity: Uint8Array };

/** One cell (towards one of this host's own addresses): keys, a side in the datapath, flows. */
export type PeerRecord = {
  /** Hex; empty while only its place is known, as the host that a flow came from has told it. */
  cell: string;
  state: PeerState | undefined;
  readonly side: number;
  active: 0 | 1;
  /** By keyOf. */
  readonly flows: Map<string, PeerFlow>;
  /** The cell wants its claims kept. */
  keeps?: true | undefined;
  /** By keyOf: what a MOVE may take along although nothing was armed. A flow is in the claims of one record at most. */
  readonly claims: Map<string, ClaimedFlow>;
  armedAt: number | undefined;
  /** The cell is back where its flows began: from then on its flows are plain, and need no entries. */
  plainAt: number | undefined;
  touchedAt: number;
  /** Suspended since: it is known to be so until it is back, also where its last flow here has ended. */
  heldAt?: number | undefined;
  /** The address that it was first announced from; undefined where that was this host's own agent. */
  readonly origin?: string | undefined;
  /** Who has shown the keys of the pair last, and from where: known here once something is sealed with them. */
  by?: Announcer | undefined;
  /** Somebody has asked since whether it is waited for: it may be about to come back. */
  claimedAt?: number | undefined;
  /** Since then: hosts that its messages pass by until they come here. */
  hops?: number | undefined;
  /** Addresses of the host where its messages begin their way here, if that is another one. */
  passedFrom?: readonly string[] | undefined;
  /** Datagrams to the cell wait: it is suspended, or has only just come back. */
  waits?: boolean | undefined;
  /** What became of those that waited last. */
  datagrams?: RoomCounts | undefined;
  /** The one address that this side's key of the pair was sent to; `several` if there were more. */
  keyAt?: string | undefined;
  /** Endpoints of the cell that it was seen at from here. */
  endpoints?: readonly string[] | undefined;
  /** New flows follow the cell. */
  follow?: FollowState | undefined;
  /** The lease of that has run out: nobody has renewed it, or ended it either. */
  lapsedAt?: number | undefined;
};

type StoredState = Omit<PeerRecord, 'flows' | 'claims'>;
type StoredFlows = {
  readonly side: number;
  readonly flows: readonly PeerFlow[];
  readonly claims?: readonly FlowId[];
};

export class PeerRecords {
  /** Apart, so that a MOVE, which changes the state only, writes little before its ACK. */
  readonly #states: Store<StoredState>;
  readonly #flows: Store<StoredFlows>;
  readonly #bySide = new Map<number, PeerRecord>();
  readonly #owners = new Map<string, PeerRecord>();
  readonly #claimants = new Map<string, PeerRecord>();

  constructor(directory: string) {
    this.#states = new Store(directory);
    this.#flows = new Store(`${directory}/flows`);
  }

  /** Finds again what was saved. */
  load(): void {
    const stored = new Map(this.#flows.all().map((each) => [each.side, each]));
    for (const state of this.#states.all()) {
      const record: PeerRecord = { ...state, flows: new Map(), claims: new Map() };
      this.#bySide.set(record.side, record);
      const { flows = [], claims = [] } = stored.get(record.side) ?? {};
      for (const flow of flows) this.take(record, flow);
      this.claim(record, claims);
    }
  }

  all(): PeerRecord[] {
    return [...this.#bySide.values()];
  }

  has(record: PeerRecord): boolean {
    return this.#bySide.has(record.side);
  }

  of(cell: string): PeerRecord[] {
    return this.all().filter((record) => record.cell === cell);
  }

  /** The record that follows the remote end of a flow. */
  owner(id: FlowId): PeerRecord | undefined {
    return this.#owners.get(keyOf(id));
  }

  /** Undefined where there are too many. */
  create(cell: string, state: PeerState | undefined, origin?: string): PeerRecord | undefined {
    if (this.#bySide.size >= CELLS_MAX) return undefined;
    const record: PeerRecord = {
      cell,
      state,
      origin,
      side: randomInt(1, 2 ** 31),
      active: 0,
      flows: new Map(),
      claims: new Map(),
      armedAt: undefined,
      plainAt: undefined,
      touchedAt: Date.now(),
    };
    this.#bySide.set(record.side, record);
    return record;
  }

  /** The flow is followed by this record from now on, and by no other. */
  take(record: PeerRecord, flow: PeerFlow): void {
    const key = keyOf(flow.id);
    const owner = this.#owners.get(key);
    if (owner !== record) owner?.flows.delete(key);
    record.flows.set(key, flow);
    this.#owners.set(key, record);
  }

  /** Whether a MOVE of its cell takes the flow along, armed or not. */
  holds(record: PeerRecord, id: FlowId): boolean {
    const key = keyOf(id);
    return record.flows.has(key) || this.#claimants.get(key) === record;
  }

  /** Whether a cell may move with the flow's other end without a word before. */
  isKept(id: FlowId): boolean {
    const key = keyOf(id);
    return this.#claimants.has(key) || this.#owners.get(key)?.keeps === true;
  }

  /** What the record follows already is no claim. Above CLAIMS_MAX nothing is noted. */
  claim(record: PeerRecord, ids: readonly FlowId[]): void {
    for (const id of ids) {
      const key = keyOf(id);
      const claimant = this.#claimants.get(key);
      if (id.scope === RELAY || record.flows.has(key) || claimant === record) continue;
      if (claimant === undefined && this.#claimants.size >= CLAIMS_MAX) return;
      claimant?.claims.delete(key);
      record.claims.set(key, { id, missing: 0 });
      this.#claimants.set(key, record);
    }
  }

  unclaim(record: PeerRecord, ids: readonly FlowId[]): void {
    for (const key of ids.map(keyOf)) {
      record.claims.delete(key);
      if (this.#claimants.get(key) === record) this.#claimants.delete(key);
    }
  }

  drop(record: PeerRecord, flows: readonly PeerFlow[]): void {
    for (const { id } of flows) {
      const key = keyOf(id);
      record.flows.delete(key);
      if (this.#owners.get(key) === record) this.#owners.delete(key);
    }
  }

  forget(record: PeerRecord): void {
    this.drop(record, [...record.flows.values()]);
    this.unclaim(
      record,
      [...record.claims.values()].map(({ id }) => id),
    );
    this.#bySide.delete(record.side);
    this.#unsave(record);
  }

  /** What a restart must not lose: flows and epochs. Keys that nothing was done with are offered anew. */
  save(record: PeerRecord): void {
    const { flows, claims, state, heldAt } = record;
    const isNothing = flows.size === 0 && claims.size === 0 && heldAt === undefined;
    if (isNothing && (state?.pair.epoch ?? 0) === 0) {
      this.#unsave(record);
      return;
    }
    this.saveFlows(record);
    this.saveState(record);
  }

  saveState({ flows: _flows, claims: _claims, ...state }: PeerRecord): void {
    this.#states.put(String(state.side), state);
  }

  saveFlows({ side, flows, claims }: PeerRecord): void {
    this.#flows.put(String(side), {
      side,
      flows: [...flows.values()],
      claims: [...claims.values()].map(({ id }) => id),
    });
  }

  #unsave({ side }: PeerRecord): void {
    this.#states.remove(String(side));
    this.#flows.remove(String(side));
  }
}

export function placeOf({ wireRemote }: PeerFlow, { active }: PeerRecord): WireSlot | undefined {
  return wireRemote[active];
}
