/** Peers that need not be asked before a cell moves: they have agreed to all its flows in the background. */
import type { PlacedFlow } from '../address.ts';
import type { Cell } from '../cell/registry.ts';
import type { AgentContext } from '../context.ts';
import type { HostMoves } from '../host-move/host-moves.ts';
import { areListable } from '../host-move/registered.ts';
import { flowIds } from './placed.ts';

/** What has been agreed in the background. */
export type Agreed = Pick<HostMoves, 'isRegistered'>;

/**
 * Addresses of those among the peers of `flows`. A peer whose own end may move without a word as well is asked all the same:
 * of two that move at once one has to notice.
 */
export async function unaskedPeers(
  { peerSide }: Pick<AgentContext, 'peerSide'>,
  agreed: Agreed,
  cell: Cell,
  flows: readonly PlacedFlow[],
): Promise<Set<string>> {
  const unasked = new Set<string>();
  for (const [peer, its] of Map.groupBy(flows, ({ at }) => at.address)) {
    const isOrdinary = its.every(({ relayed }) => relayed !== true) && areListable(its);
    if (!isOrdinary || !agreed.isRegistered(cell.id, peer, its)) continue;
    if (!(await peerSide.areKept(flowIds(cell, its)))) unasked.add(peer);
  }
  return unasked;
}
