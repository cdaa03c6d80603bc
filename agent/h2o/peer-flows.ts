/** What can be said of a flow that a host follows, and of all of a cell. */
import { type Flow, isLoopback, isSameEndpoint, knownFlow, type PlacedFlow, reversed } from '../address.ts';
import { isProgramLabel } from '../cell/labels.ts';
import { type FlowId, RELAY, type RemoteHalf } from '../datapath/model.ts';
import { type PeerFlow, type PeerRecord, placeOf } from './peer-records.ts';

/** What this host carries on: the cell is elsewhere, or was and has only just come back. */
export function relayedOf(record: PeerRecord): PeerFlow[] {
  return [...record.flows.values()].filter((flow) => flow.id.scope === RELAY && isAway(flow, record));
}

export function relaysOf(record: PeerRecord): { peer: string; flows: number }[] {
  const byPeer = Map.groupBy(relayedOf(record), ({ id }) => id.local.address);
  return [...byPeer].map(([peer, flows]) => ({ peer, flows: flows.length }));
}

/** An end that its own endpoint can't stand for on the wire. */
export function needsLabel({ scope, local }: FlowId): boolean {
  return scope === RELAY || isLoopback(local.address);
}

/** Not where the flow began. */
export function isAway(flow: PeerFlow, record: PeerRecord): boolean {
  const place = placeOf(flow, record)?.endpoint;
  if (isRenamed(flow)) return true;
  return place !== undefined && !isSameEndpoint(place, flow.id.remote);
}

/** The cell knows it by a label of this host's programs, wherever the cell is. */
function isRenamed({ id, own }: PeerFlow): boolean {
  return id.scope === RELAY && own !== undefined && isProgramLabel(own.wireLocal.port);
}

/**
 * Of a flow that is relayed still although its cell uses this host's network again, because the cell knows the peer by a
 * label of this host: the flow of the cell's own socket.
 */
export function endAtHome(flow: PeerFlow, record: PeerRecord): FlowId | undefined {
  const { id, own } = flow;
  const place = placeOf(flow, record)?.endpoint;
  if (own === undefined || !isRenamed(flow) || place === undefined) return undefined;
  if (!isSameEndpoint(place, id.remote)) return undefined;
  return { protocol: id.protocol, local: id.remote, remote: own.wireLocal, scope: 0 };
}

export function isPlain(record: PeerRecord): boolean {
  return [...record.flows.values()].every((flow) => !isAway(flow, record));
}

export function onlySlot([first, second]: RemoteHalf['wireRemote'], slot: 0 | 1): RemoteHalf['wireRemote'] {
  return slot === 0 ? [first, undefined] : [undefined, second];
}

/** The flow as the host at its other end names it. */
export function otherView(flow: Flow & Pick<PlacedFlow, 'known'>): Flow {
  return reversed(knownFlow(flow));
}
