/** Room for the cells of other hosts: whoever shows a new cell id each time crowds out itself first, and nobody who has flows. */
import type { FlowId } from '../datapath/model.ts';
import { keyOf } from '../datapath/table.ts';
import type { PeerRecord } from './peer-records.ts';

/** Cells of other hosts that this host knows at once; and of those that were first announced from one address. */
export const CELLS_MAX = 4_096;
export const CELLS_PER_SOURCE_MAX = 1_024;

/**
 * Flows, claimed or armed, of all cells that were first announced from one address: half of what the datapath holds. A UDP
 * socket for anybody has a flow with every port of every host, so that it is not the kernel that bounds them.
 */
export const FLOWS_PER_SOURCE_MAX = 32_768;

/** `displaces`: what is to be forgotten first. */
export type Room = { readonly isThere: boolean; readonly displaces?: PeerRecord };

export function roomFor(all: readonly PeerRecord[], origin: string): Room {
  const its = all.filter((record) => record.origin === origin);
  const isCrowding = its.length >= CELLS_PER_SOURCE_MAX;
  if (!isCrowding && all.length < CELLS_MAX) return { isThere: true };
  const displaces = leastNeeded(isCrowding ? its : ofMost(all));
  return displaces === undefined ? { isThere: false } : { isThere: true, displaces };
}

/** Those without a flow of whoever has most of these. */
function ofMost(all: readonly PeerRecord[]): readonly PeerRecord[] {
  const byOrigin = [...Map.groupBy(all.filter(isEmpty), ({ origin }) => origin).values()];
  return byOrigin.toSorted((one, other) => other.length - one.length)[0] ?? [];
}

/** That can still be told from others by nothing but its keys: those of a suspended cell last. */
function leastNeeded(records: readonly PeerRecord[]): PeerRecord | undefined {
  const held = ({ heldAt }: PeerRecord) => (heldAt === undefined ? 0 : 1);
  return records
    .filter(isEmpty)
    .toSorted((one, other) => held(one) - held(other) || one.touchedAt - other.touchedAt)[0];
}

function isEmpty({ flows, claims, follow, lapsedAt }: PeerRecord): boolean {
  return flows.size === 0 && claims.size === 0 && follow === undefined && lapsedAt === undefined;
}

/** Whether these of its flows may be kept as well. */
export function hasRoomFor(record: PeerRecord, ids: readonly FlowId[], all: readonly PeerRecord[]): boolean {
  const keys = ids.map(keyOf);
  const news = keys.filter((key) => !record.flows.has(key) && !record.claims.has(key)).length;
  const its = all.filter(({ origin }) => origin === record.origin);
  const kept = its.reduce((sum, { flows, claims }) => sum + flows.size + claims.size, 0);
  return kept + news <= FLOWS_PER_SOURCE_MAX;
}
