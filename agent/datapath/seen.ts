/**
 * Who a UDP port exchanges datagrams with: an unconnected socket has its correspondents in no table of the kernel, so the
 * programs note them for a while.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { deleteLine, type Element, updateLine } from './bpftool.ts';
import { decodeTuple, encodeId, type Tuple } from './layout.ts';

/** As in osmosis.bpf.c. */
export const WATCHED_MAX = 1_024;
export const SEEN_MAX = 16_384;

const SET = Uint8Array.of(1, 0, 0, 0);

/** The maps `watched` and `seen`. */
export type SeenMaps = {
  readonly pinDir: string;
  write(lines: readonly string[]): Promise<void>;
  dump(map: 'watched' | 'seen'): Promise<readonly Element[]>;
};

/** Ports, once each, and for `ms`; at most WATCHED_MAX of them. Leaves both maps empty, also where it is aborted. */
export async function watchPorts(
  maps: SeenMaps,
  ports: readonly number[],
  ms: number,
  signal: AbortSignal,
): Promise<Tuple[]> {
  const keys = ports.slice(0, WATCHED_MAX).map(encodeId);
  try {
    await maps.write(keys.map((key) => updateLine(maps.pinDir, 'watched', key, SET)));
    await sleep(ms, undefined, { signal });
    return (await maps.dump('seen')).map(({ key }) => decodeTuple(key));
  } finally {
    await clearSeen(maps);
  }
}

/** Also what an agent before this one may have left. */
export async function clearSeen(maps: SeenMaps): Promise<void> {
  // The ports first: nothing is noted any more when the rest is taken out.
  for (const map of ['watched', 'seen'] as const) {
    await maps.write((await maps.dump(map)).map(({ key }) => deleteLine(maps.pinDir, map, key)));
  }
}
