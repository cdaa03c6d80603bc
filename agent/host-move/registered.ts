/**
 * Whether a cell can be moved without a word to a peer before its MOVE: the peer has agreed to all its flows with it, in the
 * background, and was there a moment ago. Pure.
 */
import { endpointKey, type Flow, flowKey, type PlacedFlow } from '../address.ts';
import { areListed } from '../wire/h2o-labels.ts';
import type { Label } from '../wire/h2o-layout.ts';

/** A peer that has not been heard for so long in the background is asked before a move: it may be gone. */
export const REGISTERED_MS_MAX = 60_000;
/** Flows of one cell with one peer: that has to enter them between MOVE and ACK, while the process stands still. */
export const UNASKED_FLOWS_MAX = 1_000;

export type Standing = {
  /** That the peer has let the cell claim, by flowKey. */
  readonly claimed: ReadonlySet<string>;
  /** Of the peer's last answer. */
  readonly age_ms: number;
};

/** All of `flows` have this peer. */
export function isRegistered(flows: readonly Flow[], { claimed, age_ms }: Standing): boolean {
  const isFresh = age_ms <= REGISTERED_MS_MAX;
  return isFresh && flows.length <= UNASKED_FLOWS_MAX && flows.every((flow) => claimed.has(flowKey(flow)));
}

/** Whether one MOVE can list the labels that these flows will have, one an endpoint of the cell. */
export function areListable(flows: readonly Pick<PlacedFlow, 'protocol' | 'local' | 'known'>[]): boolean {
  const labels = flows.map(
    ({ protocol, local, known = local }): Label => ({
      protocol,
      virtual: known,
      wire: known,
    }),
  );
  return areListed([
    ...new Map(labels.map((label) => [endpointKey(label.protocol, label.virtual), label])).values(),
  ]);
}
