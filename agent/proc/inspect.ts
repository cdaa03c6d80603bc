/** A process tree as a plan needs it: processes, flows, files, and everything that would keep it from moving. */
import { setTimeout as sleep } from 'node:timers/promises';
import { execa } from 'execa';
import {
  type Endpoint,
  endpointText,
  type Flow,
  flowKey,
  isLinkLocal,
  isLoopback,
  type Protocol,
  reversed,
} from '../address.ts';
import type { Check, Snapshot } from '../control/protocol.ts';
import { OsmosisError } from '../error.ts';
import { type Descriptor, descriptorsOf, outsidePipes, socketInode } from './descriptors.ts';
import { filesOf } from './files.ts';
import { isUnconnected } from './socket-index.ts';
import { kindCheck } from './socket-kinds.ts';
import { socketOptions } from './socket-options.ts';
import { type SocketKind, socketProtocols } from './socket-protocols.ts';
import { type InetSocket, inetSockets, otherSockets } from './sockets.ts';
import { isTerminal, terminalChecks } from './terminals.ts';
import { procText } from './text.ts';
import { commandLine, PROCESSES_MAX, type ProcessStatus, processTree } from './tree.ts';
import { unixOutside } from './unix.ts';

const SS_ANSWER_MS_MAX = 5_000;
/** A connection that the process is opening is open, or refused, within this: one lost SYN is said again after a second. */
const OPENING_MS_MAX = 2_000;
const OPENING_POLL_MS = 20;
/** include/uapi/linux/capability.h */
const CAP_SYS_RESOURCE = 24;

/** What CRIU 4.2 does not save of UDP sockets. */
const DATAGRAM_LOSSES =
  'UDP sockets lose their multicast groups, corked data, and these options: IP_RECVERR, IP_RECVTTL, IP_RECVTOS, IP_MTU_DISCOVER, IP_MULTICAST_*, IPv6 hop limit and traffic class, UDP_SEGMENT, UDP_GRO, SO_TIMESTAMP';

export type Tree = Pick<
  Snapshot,
  'processes' | 'listeners' | 'addresses' | 'files' | 'socket_options' | 'outside' | 'image_bytes' | 'checks'
> & {
  readonly flows: Flow[];
};

/**
 * Without `options` nothing is said of the options of the sockets, which takes some 35 ms to read. `served`: the root is a
 * terminal server, whose clients will have let go before it moves.
 * @throws OsmosisError NO_SUCH_TARGET where `root` is no process.
 */
export async function inspectTree(
  root: number,
  { options: wanted = true, served = false } = {},
): Promise<Tree> {
  const processes = processTree(root);
  if (processes.length === 0 || processes[0]?.state === 'Z') {
    throw new OsmosisError(
      'NO_SUCH_TARGET',
      `there is no process ${root} on this host; nothing was touched`,
      { phase: 'plan' },
    );
  }
  const opening = await stillOpening(root);
  const descriptors = processes.flatMap(({ pid }) => descriptorsOf(pid));
  const staying = served
    ? descriptors.filter(({ pid, link }) => pid !== root || !(isTerminal(link) || socketInode(link)))
    : descriptors;
  const sockets = socketsOf(root, descriptors);
  const { flows, listeners } = flowsOf(sockets.inet);
  const unix = sockets.others.some(({ kind }) => kind === 'unix')
    ? await unixOutside(root, staying)
    : { checks: [], outside: [] };
  const options = await socketOptions(root, wanted ? descriptors : []);
  return {
    processes: processes.map((one) => ({
      pid: one.pid,
      inner_pid: one.namespacePids.at(-1) ?? one.pid,
      command: commandLine(one.pid),
      uid: one.uid,
      resident_bytes: one.residentBytes,
    })),
    flows,
    listeners,
    addresses: localAddresses(flows, listeners),
    files: filesOf(processes.map(({ pid }) => pid)),
    socket_options: [...options.groups],
    outside: [
      ...outsidePipes(descriptors).map((resource) => ({
        resource,
        external: false,
        what: `one end of a pipe (${describePipe(resource, descriptors)})`,
      })),
      ...unix.outside,
    ],
    image_bytes: processes.reduce((sum, { residentBytes }) => sum + residentBytes, 0),
    checks: [
      ...processChecks(processes),
      ...descriptorChecks(staying),
      ...socketChecks(sockets),
      ...openingChecks(opening),
      ...kindChecks([...sockets.others, ...(await socketProtocols(sockets.unlisted))]),
      ...(await mptcpChecks(root, descriptors)),
      ...unix.checks,
      ...options.checks,
    ],
  };
}

type Sockets = {
  readonly inet: readonly InetSocket[];
  readonly others: readonly SocketKind[];
  /** In none of the kernel's tables: not bound yet, or of a kind that is not ours. */
  readonly unlisted: readonly Descriptor[];
};

function socketInodes(descriptors: readonly Descriptor[]): Set<number> {
  return new Set(descriptors.flatMap(({ link }) => socketInode(link) ?? []));
}

function socketsOf(root: number, descriptors: readonly Descriptor[]): Sockets {
  const inodes = socketInodes(descriptors);
  if (inodes.size === 0) return { inet: [], others: [], unlisted: [] };
  const inet = inetSockets(root).filter(({ inode }) => inodes.has(inode));
  for (const { inode } of inet) inodes.delete(inode);
  const kinds = inodes.size === 0 ? new Map<number, string>() : otherSockets(root);
  const others = descriptors.flatMap((descriptor) => {
    const kind = kinds.get(socketInode(descriptor.link) ?? 0);
    return kind === undefined ? [] : [{ kind, descriptor }];
  });
  const unlisted = descriptors.filter(({ link }) => {
    const inode = socketInode(link);
    return inode !== undefined && inodes.has(inode) && !kinds.has(inode);
  });
  return { inet, others, unlisted };
}

/** What a tree has in TCP and UDP now. `read`: the tables of the network namespace that a process lives in. */
export function currentSockets(root: number, read = inetSockets): Pick<Tree, 'flows' | 'listeners'> {
  const inodes = socketInodes(processTree(root).flatMap(({ pid }) => descriptorsOf(pid)));
  return flowsOf(inodes.size === 0 ? [] : read(root).filter(({ inode }) => inodes.has(inode)));
}

/** The flows of a tree as they are now. */
export function currentFlows(root: number): Flow[] {
  return currentSockets(root).flows;
}

/** What a tree listens on now: listening TCP sockets, unconnected UDP ones. */
export function listenersOf(root: number): (Endpoint & { protocol: Protocol })[] {
  return currentSockets(root).listeners;
}

/** A connection that a process of the tree is opening and that nobody has answered yet. */
export function openingSocket(root: number): InetSocket | undefined {
  const opening = inetSockets(root).filter(({ state, inode }) => state === 'syn-sent' && inode !== 0);
  if (opening.length === 0) return undefined;
  const inodes = socketInodes(processTree(root).flatMap(({ pid }) => descriptorsOf(pid)));
  return opening.find(({ inode }) => inodes.has(inode));
}

/** The same, after it has had its time. */
async function stillOpening(root: number): Promise<InetSocket | undefined> {
  const started = performance.now();
  while (performance.now() - started < OPENING_MS_MAX) {
    if (openingSocket(root) === undefined) return undefined;
    await sleep(OPENING_POLL_MS);
  }
  return openingSocket(root);
}

/** A socket has a flow once both its endpoints are set, whatever of its closing is still to come. */
export function isConnected(socket: InetSocket): boolean {
  return socket.remote.port !== 0 && socket.state !== 'listen' && socket.state !== 'time-wait';
}

function flowsOf(sockets: readonly InetSocket[]): {
  flows: Flow[];
  listeners: (Endpoint & { protocol: Protocol })[];
} {
  const flows: Flow[] = [];
  const listeners: (Endpoint & { protocol: Protocol })[] = [];
  const own = new Set(sockets.filter(isConnected).map((socket) => flowKey(socket)));
  for (const { protocol, local, remote } of sockets.filter(
    (socket) => isConnected(socket) || socket.state === 'listen' || isUnconnected(socket),
  )) {
    if (remote.port === 0) listeners.push({ protocol, ...local });
    // Both ends in the tree: the connection moves as a whole, over the cell's own loopback.
    else if (!own.has(flowKey(reversed({ protocol, local, remote }))))
      flows.push({ protocol, local, remote });
  }
  return { flows, listeners };
}

function localAddresses(flows: readonly Flow[], listeners: readonly Endpoint[]): string[] {
  const all = [...flows.map(({ local }) => local.address), ...listeners.map(({ address }) => address)];
  return [...new Set(all)].filter(
    (address) => address !== '0.0.0.0' && address !== '::' && !isLoopback(address),
  );
}

function describePipe(resource: string, descriptors: readonly Descriptor[]): string {
  const holders = descriptors
    .filter(({ link }) => link === resource)
    .map(({ pid, fd }) => `pid ${pid} fd ${fd}`);
  return holders.slice(0, 4).join(', ');
}

function processChecks(processes: readonly ProcessStatus[]): Check[] {
  const checks: Check[] = [];
  const own = processes.some(({ pid }) => pid === process.pid || pid === 1);
  if (own) checks.push(bad('processes', 'init and the agent itself cannot move; name another process'));
  if (processes.length > PROCESSES_MAX)
    checks.push(bad('processes', `more than ${PROCESSES_MAX} processes in the tree`));
  for (const { pid } of processes) {
    const tracer = /^TracerPid:\s+([1-9]\d*)/m.exec(procText(`/proc/${pid}/status`) ?? '')?.[1];
    if (tracer !== undefined)
      checks.push(
        bad('debugger', `process ${pid} is traced by process ${tracer}; detach the debugger first`),
      );
  }
  const other = processes.find(({ uid }) => uid !== 0);
  if (other !== undefined && !hasCapability(procText('/proc/self/status') ?? '', CAP_SYS_RESOURCE)) {
    const why = `process ${other.pid} runs as uid ${other.uid} and this host gives its root no CAP_SYS_RESOURCE, without which CRIU can't read that process's limits`;
    checks.push(bad('capabilities', `${why}; run it as root here, or give the host the capability`));
  }
  if (checks.length === 0) checks.push(good('processes', `${processes.length} in the tree`));
  return checks;
}

/** `status` is the text of /proc/self/status. */
export function hasCapability(status: string, capability: number): boolean {
  const mask = /^CapEff:\s+([0-9a-f]+)$/m.exec(status)?.[1];
  return mask !== undefined && ((BigInt(`0x${mask}`) >> BigInt(capability)) & 1n) === 1n;
}

function descriptorChecks(descriptors: readonly Descriptor[]): Check[] {
  const checks: Check[] = [];
  const ring = descriptors.find(({ link }) => link.includes('[io_uring]'));
  if (ring !== undefined) {
    const remedy = 'start it with io_uring denied (sysctl kernel.io_uring_disabled=2, or a seccomp filter)';
    checks.push(
      bad(
        'io_uring',
        `process ${ring.pid} has an io_uring open (fd ${ring.fd}), which CRIU can't save; ${remedy}`,
      ),
    );
  }
  return [...checks, ...terminalChecks(descriptors)];
}

function socketChecks({ inet }: Sockets): Check[] {
  const checks: Check[] = [];
  const { flows, listeners } = flowsOf(inet);
  const linkLocal = [...flows.flatMap(({ local, remote }) => [local, remote]), ...listeners].find(
    ({ address }) => isLinkLocal(address),
  );
  if (linkLocal !== undefined)
    checks.push(
      bad(
        'sockets',
        `the process uses the link-local address ${endpointText(linkLocal)}, which means nothing on another link; close that socket first`,
      ),
    );
  if (inet.some(({ protocol }) => protocol === 'udp')) checks.push(good('datagrams', DATAGRAM_LOSSES));
  return checks;
}

function openingChecks(opening: InetSocket | undefined): Check[] {
  if (opening === undefined) return [];
  const what = `a connection to ${endpointText(opening.remote)} is still opening (SYN sent, no answer in ${OPENING_MS_MAX} ms)`;
  return [bad('sockets', `${what}, which can't be moved; try again once it is open or given up`)];
}

/** The first of each kind is named. */
function kindChecks(sockets: readonly SocketKind[]): Check[] {
  const firsts = new Map(sockets.toReversed().map((socket) => [socket.kind, socket]));
  return [...firsts.values()].flatMap(({ kind, descriptor }) => kindCheck(kind, descriptor) ?? []);
}

/**
 * An MPTCP socket stands in /proc/net/tcp as the TCP socket that carries it, under the same inode: only ss(8) tells them
 * apart. It is asked where the kernel counts any in this network namespace, which is seldom.
 */
async function mptcpChecks(root: number, descriptors: readonly Descriptor[]): Promise<Check[]> {
  if (!/^MPTCP(?:v6)?\s+\d+\s+[1-9]/m.test(procText(`/proc/${root}/net/protocols`) ?? '')) return [];
  const inside = ['--target', String(root), '--net', '--'];
  const { stdout } = await execa(
    'nsenter',
    [...inside, 'ss', '--mptcp', '--all', '--extended', '--numeric'],
    {
      reject: false,
      timeout: SS_ANSWER_MS_MAX,
    },
  );
  const mptcp = new Set([...stdout.matchAll(/\bino:(\d+)\b/g)].map((match) => Number(match[1])));
  const holder = descriptors.find(({ link }) => mptcp.has(socketInode(link) ?? 0));
  return holder === undefined ? [] : kindChecks([{ kind: 'MPTCP', descriptor: holder }]);
}

function good(name: string, message: string): Check {
  return { name, ok: true, message };
}

function bad(name: string, message: string): Check {
  return { name, ok: false, message };
}
