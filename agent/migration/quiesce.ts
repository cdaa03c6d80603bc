/** Before the freeze: connections that are being set up come to an end of it, one way or the other. */
import { setTimeout as sleep } from 'node:timers/promises';
import { type Endpoint, endpointText } from '../address.ts';
import { OsmosisError } from '../error.ts';
import { openingSocket } from '../proc/inspect.ts';
import { type InetSocket, inetSockets } from '../proc/sockets.ts';

/** New connections are held off while those that wait to be accepted are; after this the process is too busy to move. */
const ACCEPTED_MS_MAX = 2_000;
/**
 * A client whose handshake is half done may think itself connected: its last packet is on its way, or comes again within
 * this. What is still half open then is a client that has gone, or a scan, and nobody's connection.
 */
const HALF_OPEN_MS_MAX = 1_000;
const POLL_MS = 5;

/**
 * Until every connection that the kernel has finished for `listeners` is in the process's hands, and none of the process's
 * own is still opening. @throws OsmosisError FLOWS_CHANGED where that takes too long.
 */
export async function quiesce(
  root: number,
  listeners: readonly Endpoint[],
  signal: AbortSignal,
): Promise<void> {
  const started = performance.now();
  for (let waited = 0; waited < ACCEPTED_MS_MAX; waited = performance.now() - started) {
    signal.throwIfAborted();
    const sockets = inetSockets(root);
    const halfOpen = waited < HALF_OPEN_MS_MAX && sockets.some((socket) => isHalfOpen(socket, listeners));
    if (!halfOpen && !sockets.some((socket) => isWaitedFor(socket, listeners))) return checkOpening(root);
    await sleep(POLL_MS, undefined, { signal });
  }
  throw new OsmosisError(
    'FLOWS_CHANGED',
    `the process has not accepted its waiting connections within ${ACCEPTED_MS_MAX} ms; it goes on at the source. Try again when it is less busy.`,
    { phase: 'prepare' },
  );
}

/** A listening socket's receive queue counts the connections that wait to be accepted. */
export function isWaitedFor(
  { state, local, receiveQueue }: InetSocket,
  listeners: readonly Endpoint[],
): boolean {
  return (
    state === 'listen' &&
    receiveQueue > 0 &&
    listeners.some(({ address, port }) => address === local.address && port === local.port)
  );
}

/** The kernel has answered a SYN; there is no socket yet, only a request of a listening one. */
export function isHalfOpen({ state, local }: InetSocket, listeners: readonly Endpoint[]): boolean {
  return (
    state === 'syn-recv' &&
    listeners.some(
      ({ address, port }) =>
        port === local.port && (address === local.address || address === '0.0.0.0' || address === '::'),
    )
  );
}

/** The plan has waited for it; this one is younger than the plan. */
function checkOpening(root: number): void {
  const opening = openingSocket(root);
  if (opening === undefined) return;
  throw new OsmosisError(
    'FLOWS_CHANGED',
    `a connection to ${endpointText(opening.remote)} is still opening (SYN sent); the process goes on at the source. Try again.`,
    { phase: 'prepare' },
  );
}
