/** When a connection that this host relays has ended: no socket of its own says so. Bounds as of connection tracking. */
import type { RelayState } from '../datapath/model.ts';

/** Both ends have said goodbye; the last of it may come again for as long as one of them waits (TIME_WAIT). */
export const RELAY_CLOSED_MS_MAX = 60_000;
/** After a reset nothing comes. One that its receiver did not believe was answered, and is not the last packet then. */
export const RELAY_RESET_MS_MAX = 10_000;
/** nf_conntrack_tcp_timeout_established: five days. */
export const RELAY_TCP_IDLE_MS_MAX = 432_000_000;
/** Longer than nf_conntrack_udp_timeout_stream. */
export const RELAY_UDP_IDLE_MS_MAX = 180_000;

const NS_PER_MS = 1_000_000n;

/** `nowNs`: of the monotonic clock. */
export function isOver(state: RelayState, nowNs: bigint): boolean {
  return nowNs - state.seenNs > BigInt(silenceMax(state)) * NS_PER_MS;
}

function silenceMax({ id, isClosed, isReset }: RelayState): number {
  if (id.protocol === 'udp') return RELAY_UDP_IDLE_MS_MAX;
  if (isReset) return RELAY_RESET_MS_MAX;
  return isClosed ? RELAY_CLOSED_MS_MAX : RELAY_TCP_IDLE_MS_MAX;
}
