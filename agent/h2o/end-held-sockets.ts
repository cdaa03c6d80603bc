/** Connections of this host's processes with a suspended cell that nobody will bring back: ended here, not left to wait for ever. */
import { endConnections } from '../cell/sockets.ts';
import type { NetworkView } from './kernel-flows.ts';
import type { PeerRecord } from './peer-records.ts';

/**
 * Their processes see an error (ECONNABORTED) at once. Whoever is relayed for sees a reset with its next packet, once this
 * host knows the flow no more. Of UDP there is nothing to end.
 */
export async function endHeldSockets(
  { flows }: Pick<PeerRecord, 'flows'>,
  views: readonly NetworkView[],
): Promise<void> {
  const ids = [...flows.values()].map(({ id }) => id);
  for (const { pid, scope } of views) {
    const its = ids.filter((id) => id.scope === scope);
    if (its.length > 0) await endConnections(pid === 'self' ? 'host' : { init: pid, net: true }, its);
  }
}
