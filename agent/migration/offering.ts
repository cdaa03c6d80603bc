import { type Endpoint, isLoopback, isSameEndpoint, knownFlow, type PlacedFlow } from '../address.ts';
import type { Cell } from '../cell/registry.ts';
import type { PeerSide } from '../h2o/peer-side.ts';
import { isOwnAddress } from '../host/routes.ts';

/**
 * At home, flows whose other ends are on this host as well, or on a host without an agent (`relay`: their addresses): this host
 * is the peer then, and carries them on. Where it fails nothing is offered.
 */
export async function offerOwnEnds(
  { ownEnds }: Pick<PeerSide, 'ownEnds'>,
  { link }: Cell,
  flows: readonly PlacedFlow[],
  relay: ReadonlySet<string>,
): Promise<PlacedFlow[]> {
  const isHome = link === undefined;
  const isOurs = ({ address }: Endpoint) => isOwnAddress(address) || (isHome && isLoopback(address));
  const kind = (flow: PlacedFlow) => {
    const { remote, at } = flow;
    if (!isSameEndpoint(at, remote)) return 'elsewhere';
    // What a moved cell has with this host takes that way only where the host knows the cell by its own address.
    if (isOurs(remote) && isOurs(knownFlow(flow).local)) return 'here';
    return isHome && relay.has(remote.address) ? 'relayed' : 'elsewhere';
  };
  const { here = [], relayed = [], elsewhere = [] } = Object.groupBy(flows, kind);
  const offered = await ownEnds.offer(here, false);
  try {
    return [...elsewhere, ...offered, ...(await ownEnds.offer(relayed, true))];
  } catch (error) {
    await ownEnds.withdraw(offered);
    throw error;
  }
}
