/** What a host keeps of the cells that its processes talk to, in memory and on disk. */
import { randomInt } from 'node:crypto';
import type { FlowId, LocalHalf, RemoteHalf, WireSlot } from '../datapath/model.ts';
import { keyOf } from '../datapath/table.ts';
import { Store } from '../state/store.ts';
import type { PeerState } from '../wire/h2o-peer.ts';
import type { FollowState } from './follows.ts';

/** Cells of other hosts that this host knows at once. */
const CELLS_MAX = 4_096;

export type PeerFlow = {
  readonly id: FlowId;
  wireRemote: RemoteHalf['wireRemote'];
  /** Where its own end is not just a socket of this host: relayed, or to be reached by way of the loopback device. */
  own?: LocalHalf | undefined;
  /** Looks at the kernel in a row that did not find its socket. */
  missing: number;
};

/** One cell (towards one of this host's own addresses): keys, a side in the datapath, flows. */
export type PeerRecord = {
  /** Hex; empty while only its place is known, as the host that a flow came from has told it. */
  cell: string;
  state: PeerState | undefined;
  readonly side: number;
  active: 0 | 1;
  /** By keyOf. */
  readonly flows: Map<string, PeerFlow>;
  armedAt: number | undefined;
  /** The cell is back where its flows began: from then on its flows are plain, and need no entries. */
  plainAt: number | undefined;
  touchedAt: number;
  /** Who announced the cell last, and from where: known here once something is sealed with the keys of that. */
  by?: { readonly address: string; readonly identity: Uint8Array } | undefined;
  /** The one address that this side's key of the pair was sent to; `several` if there were more. */
  keyAt?: string | undefined;
  /** Endpoints of the cell that it was seen at from here. */
  endpoints?: readonly string[] | undefined;
  /** New flows follow the cell. */
  follow?: FollowState | undefined;
};

type StoredState = Omit<PeerRecord, 'flows'>;
type StoredFlows = { readonly side: number; readonly flows: readonly PeerFlow[] };

export class PeerRecords {
  /** Apart, so that a MOVE, which changes the state only, writes little before its ACK. */
  readonly #states: Store<StoredState>;
  readonly #flows: Store<StoredFlows>;
  readonly #bySide = new Map<number, PeerRecord>();
  readonly #owners = new Map<string, PeerRecord>();

  constructor(directory: string) {
    this.#states = new Store(directory);
    this.#flows = new Store(`${directory}/flows`);
  }

  /** Finds again what was saved. */
  load(): void {
    const flowsOf = new Map(this.#flows.all().map(({ side, flows }) => [side, flows]));
    for (const state of this.#states.all()) {
      const record: PeerRecord = { ...state, flows: new Map() };
      this.#bySide.set(record.side, record);
      for (const flow of flowsOf.get(record.side) ?? []) this.take(record, flow);
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
  create(cell: string, state: PeerState | undefined): PeerRecord | undefined {
    if (this.#bySide.size >= CELLS_MAX) return undefined;
    const record: PeerRecord = {
      cell,
      state,
      side: randomInt(1, 2 ** 31),
      active: 0,
      flows: new Map(),
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

  drop(record: PeerRecord, flows: readonly PeerFlow[]): void {
    for (const { id } of flows) {
      const key = keyOf(id);
      record.flows.delete(key);
      if (this.#owners.get(key) === record) this.#owners.delete(key);
    }
  }

  forget(record: PeerRecord): void {
    this.drop(record, [...record.flows.values()]);
    this.#bySide.delete(record.side);
    this.#unsave(record);
  }

  /** What a restart must not lose: flows and epochs. Keys that nothing was done with are offered anew. */
  save(record: PeerRecord): void {
    if (record.flows.size === 0 && (record.state?.pair.epoch ?? 0) === 0) {
      this.#unsave(record);
      return;
    }
    this.saveFlows(record);
    this.saveState(record);
  }

  saveState({ flows: _flows, ...state }: PeerRecord): void {
    this.#states.put(String(state.side), state);
  }

  saveFlows({ side, flows }: PeerRecord): void {
    this.#flows.put(String(side), { side, flows: [...flows.values()] });
  }

  #unsave({ side }: PeerRecord): void {
    this.#states.remove(String(side));
    this.#flows.remove(String(side));
  }
}

export function placeOf({ wireRemote }: PeerFlow, { active }: PeerRecord): WireSlot | undefined {
  return wireRemote[active];
}
