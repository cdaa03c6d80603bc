/**
 * Rooms: where datagrams wait that nobody can take yet. A room is a veth of this host's with both ends here; `from_room` of
 * osmosis.bpf.c, at its far end, puts datagrams into the queue of a neighbour of the near end that is not resolved. It is
 * in the kernel, so it outlives an agent, and takes no module that a host may lack. When it is full the oldest make room.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { OsmosisError } from '../error.ts';
import { localMac } from '../host/mac.ts';
import { HOOK_OF } from './attach.ts';
import type { Room } from './model.ts';
import type { Run } from './run.ts';
import { filterAddArgv, linkArgv, parseLink, qdiscAddArgv, qdiscShowArgv } from './tc.ts';

/** At a time, on one host. */
export const ROOMS_MAX = 64;
/**
 * Kernel memory for what waits in one room, of IPv4 and of IPv6 each: some 1,600 datagrams of 200 bytes, and ten times what the
 * receive buffer of one socket takes by default.
 */
export const ROOM_BYTES_MAX = 2 * 1024 ** 2;
/** Nobody expects a datagram after this: the maximum segment lifetime (RFC 9293, 3.4.1). */
export const LATE_MS_MAX = 120_000;
/** A packet takes less than this from the look at its side to the room. */
export const PASSING_MS = 50;
/** How fast a room is let out: at first, and doubled every so many ms up to the last. All that it can hold takes half a second. */
const PACE_KBIT_FIRST = 16_000;
const PACE_KBIT_LAST = 16_000_000;
const PACE_MS = 50;
/** So much at once, and then at this pace. */
const BURST_BYTES = 32 * 1024;
/** The kernel asks three times for a neighbour, so long after one another, and then drops what has waited: 23 days. */
const RETRANS_MS = 2_000_000_000;
/** As osmosis.bpf.c has them: nobody has these addresses on that device, so nobody answers. */
const NEIGHBOURS = ['169.254.1.2', 'fe80::2'] as const;
/** The longest packet of any device: none is cut. */
const MTU_MAX = 65_535;

/** `program`: path of the pinned from_room. The room is empty, and nothing leads to it yet. */
export async function createRoom(run: Run, side: number, program: string): Promise<Room> {
  const [near, far] = [nearEnd(side), farEnd(side)];
  await removeRoom(run, side);
  const mtu = ['mtu', String(MTU_MAX)];
  const peer = ['peer', 'name', far, 'address', localMac(), ...mtu];
  await run('ip', ['link', 'add', near, ...mtu, 'type', 'veth', ...peer]);
  try {
    await run('sysctl', ['-eqw', ...settings(near), `net.ipv6.conf.${far}.addr_gen_mode=1`]);
    await run('tc', qdiscAddArgv(far));
    await run('tc', filterAddArgv(far, HOOK_OF.from_room, program));
    await run('ip', ['link', 'set', near, 'up']);
    await run('ip', ['link', 'set', far, 'up']);
    const ends = await Promise.all([linkOf(run, near), linkOf(run, far)]);
    return { side, near: ends[0].ifindex, far: ends[1].ifindex };
  } catch (error) {
    await removeRoom(run, side);
    throw error;
  }
}

/**
 * What waits comes out in order, one datagram after the other, and is on its way when this resolves. Slowly at first: all at
 * once would be more than the receive buffer of a socket takes. Where the kernel has no token bucket it does come at once.
 */
export async function letOut(run: Run, side: number): Promise<void> {
  const near = nearEnd(side);
  const isPaced = await run('tc', bucketArgv('add', near, PACE_KBIT_FIRST)).then(
    () => true,
    () => false,
  );
  await resolve(run, side);
  if (!isPaced) return;
  for (let kbit = 2 * PACE_KBIT_FIRST; kbit <= PACE_KBIT_LAST; kbit *= 2) {
    if (isQueueEmpty(await run('tc', ['-j', '-s', ...qdiscShowArgv(near).slice(1)]))) return;
    await sleep(PACE_MS);
    await run('tc', bucketArgv('change', near, kbit));
  }
}

async function resolve(run: Run, side: number): Promise<void> {
  const near = nearEnd(side);
  const { mac } = await linkOf(run, farEnd(side));
  const failures: unknown[] = [];
  for (const neighbour of NEIGHBOURS) {
    const argv = ['neigh', 'replace', neighbour, 'lladdr', mac, 'nud', 'permanent', 'dev', near];
    // A host may be without one of the families.
    await run('ip', argv).catch((error: unknown) => failures.push(error));
  }
  if (failures.length === NEIGHBOURS.length) throw failures[0];
}

/** No harm where it is not there. What waits in it is lost. */
export async function removeRoom(run: Run, side: number): Promise<void> {
  const isThere = await run('ip', linkArgv(nearEnd(side))).catch(() => undefined);
  if (isThere !== undefined) await run('ip', ['link', 'delete', nearEnd(side)]);
}

/** tc-tbf(8). */
function bucketArgv(verb: 'add' | 'change', device: string, kbit: number): string[] {
  const bucket = ['rate', `${kbit}kbit`, 'burst', String(BURST_BYTES), 'limit', String(2 * ROOM_BYTES_MAX)];
  return ['qdisc', verb, 'dev', device, 'root', 'tbf', ...bucket];
}

function isQueueEmpty(json: string): boolean {
  return (JSON.parse(json) as { backlog?: number }[]).every(({ backlog = 0 }) => backlog === 0);
}

/** Within the 15 characters of a device's name. */
function nearEnd(side: number): string {
  return `osm${side.toString(16).padStart(8, '0')}r`;
}

function farEnd(side: number): string {
  return `${nearEnd(side)}q`;
}

/** No address of its own, so that nobody is told of one that came and went. */
function settings(near: string): string[] {
  return [
    ...['ipv4', 'ipv6'].flatMap((family) => [
      `net.${family}.neigh.${near}.unres_qlen_bytes=${ROOM_BYTES_MAX}`,
      `net.${family}.neigh.${near}.retrans_time_ms=${RETRANS_MS}`,
    ]),
    `net.ipv6.conf.${near}.addr_gen_mode=1`,
  ];
}

async function linkOf(run: Run, name: string): Promise<{ ifindex: number; mac: string }> {
  const text = await run('ip', linkArgv(name));
  const link = parseLink(text);
  const mac = (JSON.parse(text) as { address?: string }[]).find(
    ({ address }) => address !== undefined,
  )?.address;
  if (link !== undefined && mac !== undefined) return { ifindex: link.ifindex, mac };
  throw new OsmosisError('DATAPATH', `the device ${name} is not there; datagrams that wait at it are lost`);
}
