/**
 * The inside of a cell, for flows whose other end has an address of the cell's own (a loopback address, or that of the
 * host that both started on): the kernel would keep their packets inside, and believe none that come from outside.
 * Everything here is in the cell's own network namespace, and goes with it.
 */
import { OsmosisError } from '../error.ts';
import { HOOK_OF } from './attach.ts';
import { programPath } from './bpftool.ts';
import type { Inside } from './model.ts';
import type { Run } from './run.ts';
import { filterReplaceArgv, type Link, linkArgv, parseLink, qdiscReplaceArgv } from './tc.ts';

/** As in osmosis.bpf.c. */
export const CELLS_MAX = 4_096;

const PROGRAM_ON = { lo: 'cell_out', eth0: 'cell_in' } as const;
const SETTINGS = ['accept_local', 'route_localnet'].map((name) => `net.ipv4.conf.lo.${name}=1`);

/** The entry for a cell; `run` is inside it. OsmosisError DATAPATH where it has no eth0, or all ids are taken. */
export async function describeInside(
  run: Run,
  scope: number,
  known: readonly Inside[],
  signal?: AbortSignal,
): Promise<Inside> {
  const link = await deviceOf(run, signal);
  const earlier = known.find((each) => each.scope === scope)?.id;
  const taken = new Set(known.map(({ id }) => id));
  const free = Array.from({ length: CELLS_MAX }, (_, index) => index + 1).find((id) => !taken.has(id));
  const id = earlier ?? free;
  if (id !== undefined) return { id, scope, ifindex: link.ifindex };
  throw new OsmosisError('DATAPATH', `${CELLS_MAX} cells have flows of their own addresses, and no more can`);
}

/** Puts the programs inside; no harm where they are. Its `lo` carries no more in a packet than its eth0 from now on. */
export async function attachInside(
  run: Run,
  pinDir: string,
  inside: Inside,
  signal?: AbortSignal,
): Promise<void> {
  const { mtu } = await deviceOf(run, signal);
  await run('sysctl', ['-qw', ...SETTINGS], signal);
  await run('ip', ['link', 'set', 'lo', 'mtu', String(mtu), 'up'], signal);
  for (const [device, program] of Object.entries(PROGRAM_ON)) {
    const pinned = programPath(pinDir, program);
    await run('tc', qdiscReplaceArgv(device), signal);
    await run('tc', filterReplaceArgv(device, HOOK_OF[program], pinned, inside.id), signal);
  }
}

/** `cell_held`, while the cell has flows with a suspended one; no harm where it is. */
export async function attachHeld(
  run: Run,
  pinDir: string,
  { id }: Inside,
  signal?: AbortSignal,
): Promise<void> {
  await run('tc', qdiscReplaceArgv('eth0'), signal);
  await run('tc', filterReplaceArgv('eth0', HOOK_OF.cell_held, programPath(pinDir, 'cell_held'), id), signal);
}

async function deviceOf(run: Run, signal?: AbortSignal): Promise<Link> {
  const link = parseLink(await run('ip', linkArgv('eth0'), signal));
  if (link !== undefined) return link;
  throw new OsmosisError('DATAPATH', 'the cell has no device eth0; this is a bug, please report it');
}
