/** Whether a cell that comes to this host comes home: its addresses are this host's own, and nobody has its ports. */
import { type Endpoint, flowKey, isLoopback, type PlacedFlow } from '../address.ts';
import type { Snapshot } from '../control/protocol.ts';
import { isOwnAddress } from '../host/routes.ts';
import { type InetSocket, inetSockets } from '../proc/sockets.ts';

type Here = {
  readonly peerSide: { readonly ownEnds: { isOwnLabel(flow: PlacedFlow): boolean } };
  /** An address that this host has for its sockets only is no home: nobody reaches it here. */
  readonly kept: { isAway(address: string): boolean };
};
type Coming = Pick<Snapshot, 'addresses' | 'flows' | 'listeners'>;

/** At home a process uses the host's network directly again, and its flows need no translation. */
export function isComingHome(
  snapshot: Coming,
  { peerSide, kept }: Here,
  isOwn: (address: string) => boolean = isOwnAddress,
  sockets: () => readonly InetSocket[] = () => inetSockets('self'),
): boolean {
  const addresses = snapshot.addresses.filter((address) => !isLoopback(address));
  // Loopback addresses are every host's: it began where the other end still is, behind a label of that host.
  const isReached = (address: string) => isOwn(address) && !kept.isAway(address);
  const began =
    addresses.length === 0
      ? snapshot.flows.some((flow) => peerSide.ownEnds.isOwnLabel(flow))
      : addresses.every(isReached);
  if (!began) return false;
  const there = sockets();
  const flows = new Set(there.map((socket) => flowKey(socket)));
  if (snapshot.flows.some((flow) => flows.has(flowKey(flow)))) return false;
  const bound = there.filter(({ state, remote }) => state === 'listen' || remote.port === 0);
  return !snapshot.listeners.some((listener) =>
    bound.some((socket) => socket.protocol === listener.protocol && overlap(socket.local, listener)),
  );
}

function overlap(a: Endpoint, b: Endpoint): boolean {
  return a.port === b.port && (isAny(a.address) || isAny(b.address) || a.address === b.address);
}

function isAny(address: string): boolean {
  return address === '0.0.0.0' || address === '::';
}
