/**
 * Sockets of this host whose other end was suspended and is back: those that have something to say hear that there is room, by
 * a program that is loaded for it (wake.bpf.c), so that no timer of theirs has to be waited for.
 */

import { WAKE_OBJECT_FILE } from './object.ts';
import { runnerIn } from './run.ts';
import type { SocketPair } from './socket-layout.ts';
import { enter, inNetwork, load, type Namespace, runOnce, unload } from './socket-programs.ts';
import { linkArgv } from './tc.ts';

/** DELIVERED of osmosis.bpf.c: nothing is to be looked up on its way up the stack. */
const DELIVERED = 0x05e1;
const VALUE_BYTES = 16;
const MAC_BYTES = 6;
/** MORE of wake.bpf.c. */
const MORE = 0x8000_0000;
/** Of 500 packets, so all sockets that the map has room for, and one doubling each. */
const RUNS_MAX = 300;

/** The device by which what is said to a socket comes in, in the socket's network namespace. */
export type Waking = SocketPair & {
  readonly ifindex: number;
  /** In a cell: the address of its eth0; the datapath's programs do without on the host's own devices. */
  readonly mac?: Uint8Array;
  /** What comes in so is not looked up by the datapath's programs any more. */
  readonly delivered: boolean;
};

/**
 * Wakes each that has something to say; with `urge` those whose timers have backed off, which are set back. Answers with
 * how many that were. OsmosisError DATAPATH where the kernel can't.
 */
export async function wakeUp(
  namespace: Namespace,
  sockets: readonly Waking[],
  urge: boolean,
): Promise<number> {
  const directory = await load(WAKE_OBJECT_FILE);
  try {
    await enter(
      `${directory}/maps/waiting`,
      sockets.map((socket) => [socket, packWaking(socket, urge)]),
    );
    let waited = 0;
    for (let runs = 0; runs < RUNS_MAX; runs++) {
      const answer = await runOnce(inNetwork(namespace), `${directory}/programs/wake`);
      waited += answer & ~MORE;
      if ((answer & MORE) === 0) break;
    }
    return waited;
  } finally {
    await unload(directory);
  }
}

/** The way in to sockets of a cell. Undefined where it has ended. */
export async function cellDevice(path: string): Promise<{ ifindex: number; mac: Uint8Array } | undefined> {
  const answer = await runnerIn(path)('ip', linkArgv('eth0')).catch(() => '[]');
  const [link] = JSON.parse(answer) as readonly { readonly ifindex: number; readonly address: string }[];
  return link && { ifindex: link.ifindex, mac: Buffer.from(link.address.replaceAll(':', ''), 'hex') };
}

/** struct wake_at of wake.bpf.c, which asserts its size. */
function packWaking({ ifindex, mac, delivered }: Waking, urge: boolean): Buffer {
  const value = Buffer.alloc(VALUE_BYTES);
  value.writeUInt32LE(ifindex, 0);
  value.writeUInt16LE(delivered ? DELIVERED : 0, 4);
  if (mac !== undefined) value.set(mac.subarray(0, MAC_BYTES), 6);
  value.writeUInt8(urge ? 1 : 0, 12);
  return value;
}
