/**
 * What UDP needs beyond TCP: the flows of unconnected sockets, which no table of the kernel has, and the datagrams in a
 * socket, which CRIU does not save.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { endpointText, type Flow, flowKey, isLinkLocal } from '../address.ts';
import { isProgramLabel } from '../cell/labels.ts';
import type { Cell } from '../cell/registry.ts';
import type { AgentContext } from '../context.ts';
import { ethernetDevices } from '../host/routes.ts';
import { descriptorsOf, socketInode } from '../proc/descriptors.ts';
import type { Tree } from '../proc/inspect.ts';
import { isUnconnected, socketIndex } from '../proc/socket-index.ts';
import { udpSockets } from '../proc/sockets.ts';
import { processTree } from '../proc/tree.ts';

/** Whoever exchanges a datagram with an unconnected socket within this is taken along, where nobody asks for longer. */
export const LEARN_MS = 1_000;
/** The process may go on taking what is in its UDP sockets for this long before it is frozen. */
const DRAIN_MS_MAX = 100;
const DRAIN_POLL_MS = 3;

/** Datagrams that stayed behind in the process's sockets. */
export type Leftover = {
  readonly sockets: number;
  /** As the kernel counts a receive queue (ss(8), Recv-Q): with what it needs for each datagram. */
  readonly bytes: number;
};

/**
 * The flows of the tree's unconnected UDP sockets: those that a moved cell came with, and in the host's own network also
 * whoever is heard or spoken to within `ms`. Nothing is left in the datapath.
 */
export async function learnFlows(
  context: AgentContext,
  cell: Cell,
  tree: Tree,
  ms: number,
  signal: AbortSignal,
): Promise<Flow[]> {
  const ports = tree.listeners.flatMap(({ protocol, port }) => (protocol === 'udp' ? [port] : []));
  if (ports.length === 0) return [];
  if (cell.link !== undefined) return unconnectedFlows(cell.pid, servedFlows(cell), tree);
  const { datapath } = context;
  try {
    const seen = await datapath.watch([...new Set(ports)], await ethernetDevices(), ms, signal);
    return unconnectedFlows(cell.pid, [...cell.flows, ...seen], tree);
  } finally {
    await datapath.removeIfEmpty();
  }
}

/**
 * What came along, and who has come since. Those that its sockets have spoken to first begin anew with
 * their next datagram: the resolver that it once asked need not be held on to.
 */
function servedFlows({ flows }: Cell): readonly Flow[] {
  return flows.filter(({ wireLocal }) => !isProgramLabel(wireLocal.port));
}

/** Those of `flows` that an unconnected UDP socket of the tree serves now. */
export function unconnectedFlows(
  pid: number,
  flows: readonly Flow[],
  tree: Pick<Tree, 'flows' | 'listeners'>,
): Flow[] {
  const own = new Set(
    tree.listeners.filter(({ protocol }) => protocol === 'udp').map((listener) => endpointText(listener)),
  );
  const bound = udpSockets(pid).filter(
    (socket) => isUnconnected(socket) && own.has(endpointText(socket.local)),
  );
  const index = socketIndex(bound);
  const connected = new Set(tree.flows.map((flow) => flowKey(flow)));
  return [...new Map(flows.map((flow) => [flowKey(flow), flow])).values()]
    .filter((flow) => index.has(flow) && !connected.has(flowKey(flow)) && !isLinkLocal(flow.local.address))
    .map(({ protocol, local, remote }) => ({ protocol, local, remote }));
}

/** The tree with these flows as well. */
export function withFlows(tree: Tree, flows: readonly Flow[]): Tree {
  return {
    ...tree,
    flows: [...tree.flows, ...flows],
    addresses: [...new Set([...tree.addresses, ...flows.map(({ local }) => local.address)])],
  };
}

/** The UDP sockets of one process tree, as they are when this is made. */
export class DatagramQueues {
  readonly #pid: number;
  readonly #inodes: ReadonlySet<number>;

  constructor(pid: number) {
    this.#pid = pid;
    const held = new Set(
      processTree(pid).flatMap((one) =>
        descriptorsOf(one.pid).flatMap(({ link }) => socketInode(link) ?? []),
      ),
    );
    this.#inodes = new Set(udpSockets(pid).flatMap(({ inode }) => (held.has(inode) ? [inode] : [])));
  }

  /** Until the process has taken everything, or DRAIN_MS_MAX are over. New datagrams must be kept away. */
  async drain(signal: AbortSignal): Promise<void> {
    if (this.#inodes.size === 0) return;
    const deadline = performance.now() + DRAIN_MS_MAX;
    while (this.leftover().sockets > 0 && performance.now() < deadline)
      await sleep(DRAIN_POLL_MS, undefined, { signal });
  }

  leftover(): Leftover {
    if (this.#inodes.size === 0) return { sockets: 0, bytes: 0 };
    const waiting = udpSockets(this.#pid).filter(
      ({ inode, receiveQueue }) => receiveQueue > 0 && this.#inodes.has(inode),
    );
    return {
      sockets: waiting.length,
      bytes: waiting.reduce((sum, { receiveQueue }) => sum + receiveQueue, 0),
    };
  }
}
