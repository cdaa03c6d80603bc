/**
 * TCP_USER_TIMEOUT of connections whose other end is suspended: the kernel would end them after that time, whatever is
 * answered (tcp_rtx_probe0_timed_out and tcp_probe_timer of Linux). It is lifted meanwhile, and given back.
 */

import {
  parseTimeoutChanges,
  type SocketGroup,
  type SocketPair,
  type TimeoutChange,
} from './socket-layout.ts';
import { inNetwork, iterate, load, type Namespace, unload, want } from './socket-programs.ts';

/** TIMEOUT_LIFTED of osmosis.bpf.c. */
const LIFTED = 0xffffffff;

/**
 * Answers with what was changed. A socket that its process has closed, or that has data in flight, gets one that is longer than
 * any suspension: without one the kernel has a limit of its own.
 * @throws OsmosisError DATAPATH where the kernel can't.
 */
export async function liftTimeouts(
  namespace: Namespace,
  sockets: readonly SocketPair[],
): Promise<TimeoutChange[]> {
  return await setTimeouts(namespace, [[LIFTED, sockets]]);
}

/** Those that still are as they were left: a process may have set another meanwhile. Errors as of liftTimeouts. */
export async function giveTimeoutsBack(
  namespace: Namespace,
  changes: readonly TimeoutChange[],
): Promise<void> {
  await setTimeouts(namespace, [...Map.groupBy(changes, ({ wasMs }) => wasMs)]);
}

async function setTimeouts(
  namespace: Namespace,
  wanted: readonly (readonly [timeout: number, sockets: readonly SocketPair[]])[],
): Promise<TimeoutChange[]> {
  const directory = await load();
  try {
    await want(directory, wanted.map(groupOf));
    const read = ['cat', `${directory}/programs/set_timeouts`];
    return parseTimeoutChanges(await iterate([...inNetwork(namespace), ...read]));
  } finally {
    await unload(directory);
  }
}

function groupOf([timeout, sockets]: readonly [number, readonly SocketPair[]]): SocketGroup {
  return { options: { congestion: '', values: { TCP_USER_TIMEOUT: timeout } }, sockets: [...sockets] };
}
