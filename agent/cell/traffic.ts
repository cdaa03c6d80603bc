/** What the connections of each cell have carried so far, by peer: asked of the kernel, for whoever watches. */
import { execa } from 'execa';
import type { CellTraffic } from '../control/traffic-protocol.ts';
import { inNetwork } from '../datapath/socket-programs.ts';
import { descriptorsOf, socketInode } from '../proc/descriptors.ts';
import { isConnected } from '../proc/inspect.ts';
import { type InetSocket, socketReader } from '../proc/sockets.ts';
import { processTree } from '../proc/tree.ts';
import type { Cell, Registry } from './registry.ts';

const SS_MS_MAX = 5_000;
/** Output of ss for tens of thousands of connections. */
const SS_BYTES_MAX = 64 * 1024 * 1024;

type Carried = { readonly in: number; readonly out: number };

/** A cell whose process has ended is left out. */
export async function trafficOf(registry: Registry): Promise<CellTraffic[]> {
  // Those at home share one network namespace: it is asked once.
  const cells = registry.all();
  const home = cells.some(({ link }) => link === undefined) ? await carriedIn(undefined) : new Map();
  const carried = await Promise.all(cells.map((cell) => (cell.link === undefined ? home : carriedIn(cell))));
  const socketsOf = socketReader();
  return cells.flatMap((cell, index) => traffic(cell, carried[index] ?? home, socketsOf(cell.pid)) ?? []);
}

function traffic(
  cell: Cell,
  carried: ReadonlyMap<number, Carried>,
  sockets: readonly InetSocket[],
): CellTraffic | undefined {
  const tree = processTree(cell.pid);
  if (tree.length === 0) return undefined;
  const inodes = new Set(tree.flatMap(({ pid }) => descriptorsOf(pid)).map(({ link }) => socketInode(link)));
  const peers = new Map<string, { flows: number; bytes_in: number; bytes_out: number }>();
  for (const socket of sockets) {
    if (!isConnected(socket) || !inodes.has(socket.inode)) continue;
    const { address } = socket.remote;
    const sum = peers.get(address) ?? { flows: 0, bytes_in: 0, bytes_out: 0 };
    const { in: received = 0, out: acknowledged = 0 } = carried.get(socket.inode) ?? {};
    peers.set(address, {
      flows: sum.flows + 1,
      bytes_in: sum.bytes_in + received,
      bytes_out: sum.bytes_out + acknowledged,
    });
  }
  return {
    cell: cell.id,
    processes: tree.length,
    peers: [...peers].map(([address, sum]) => ({ address, ...sum })),
  };
}

/** By inode; of TCP, for UDP does not count. */
async function carriedIn(cell: Cell | undefined): Promise<Map<number, Carried>> {
  const ss = ['ss', '--no-header', '--oneline', '--tcp', '--info', '--extended', '--numeric'];
  const [file = '', ...args] = [...inNetwork(cell?.pid ?? 'self'), ...ss];
  const { stdout } = await execa(file, args, { reject: false, timeout: SS_MS_MAX, maxBuffer: SS_BYTES_MAX });
  return parseCarried(stdout);
}

/** Output of ss(8) with --oneline --tcp --info --extended. */
export function parseCarried(text: string): Map<number, Carried> {
  const carried = new Map<number, Carried>();
  for (const line of text.split('\n')) {
    const inode = Number(/ ino:(\d+)/.exec(line)?.[1] ?? 0);
    if (inode === 0) continue;
    carried.set(inode, {
      in: Number(/ bytes_received:(\d+)/.exec(line)?.[1] ?? 0),
      out: Number(/ bytes_acked:(\d+)/.exec(line)?.[1] ?? 0),
    });
  }
  return carried;
}
