/** Hangs the pinned programs on the tc hooks of devices, and takes exactly those off again. */
import { OsmosisError } from '../error.ts';
import { NET_ARGV, type ProgramName, parseAttachments, programPath } from './bpftool.ts';
import { forgetOwnClsact, isOwnClsact, noteOwnClsact } from './pins.ts';
import type { Run } from './run.ts';
import {
  filterAddArgv,
  filterDeleteArgv,
  filterShowArgv,
  type Hook,
  hasClsact,
  isHookEmpty,
  type Link,
  linkArgv,
  parseLink,
  qdiscAddArgv,
  qdiscDeleteArgv,
  qdiscShowArgv,
} from './tc.ts';

export const HOOK_OF = {
  from_wire: 'ingress',
  to_wire: 'egress',
  from_cell: 'ingress',
  cell_out: 'egress',
  cell_in: 'ingress',
  cell_held: 'egress',
  from_queue: 'ingress',
  from_room: 'ingress',
} as const satisfies Record<ProgramName, Hook>;

/** A device that programs of ours hang on. */
export type AttachedDevice = {
  readonly name: string;
  readonly ifindex: number;
  readonly programs: readonly ProgramName[];
};

/** Attaches what is not among `attached` yet. OsmosisError DATAPATH where the device is missing or is no Ethernet device. */
export async function attach(
  run: Run,
  pinDir: string,
  device: string,
  programs: readonly ProgramName[],
  attached: readonly AttachedDevice[],
  signal?: AbortSignal,
): Promise<void> {
  const link = await ethernetLink(run, device, signal);
  const there = attached.find(({ ifindex }) => ifindex === link.ifindex);
  const missing = programs.filter((program) => !there?.programs.includes(program));
  if (missing.length === 0) return;
  if (!hasClsact(await run('tc', qdiscShowArgv(device), signal))) {
    await noteOwnClsact(pinDir, link.ifindex);
    await run('tc', qdiscAddArgv(device), signal);
  }
  for (const program of missing) {
    await run('tc', filterAddArgv(device, HOOK_OF[program], programPath(pinDir, program)), signal);
  }
}

/** Takes our filters off, and the clsact where it is ours and nobody else has come to use it. */
export async function detach(
  run: Run,
  pinDir: string,
  device: AttachedDevice,
  signal?: AbortSignal,
): Promise<void> {
  for (const program of device.programs) {
    await run('tc', filterDeleteArgv(device.name, HOOK_OF[program]), signal);
  }
  if (!(await isOwnClsact(pinDir, device.ifindex))) return;
  const left = await Promise.all([
    run('tc', filterShowArgv(device.name, 'ingress'), signal),
    run('tc', filterShowArgv(device.name, 'egress'), signal),
  ]);
  if (left.every(isHookEmpty)) await run('tc', qdiscDeleteArgv(device.name), signal);
  await forgetOwnClsact(pinDir, device.ifindex);
}

/**
 * Asks the kernel, so that it holds after a restart as well, and with devices that have come and gone.
 * @param ids of programIds
 */
export async function attachedDevices(
  run: Run,
  ids: ReadonlyMap<number, ProgramName>,
  signal?: AbortSignal,
): Promise<AttachedDevice[]> {
  const devices = new Map<number, { name: string; ifindex: number; programs: ProgramName[] }>();
  for (const { device, ifindex, programId } of parseAttachments(await run('bpftool', NET_ARGV, signal))) {
    const program = ids.get(programId);
    if (program === undefined) continue;
    const known = devices.get(ifindex) ?? { name: device, ifindex, programs: [] };
    known.programs.push(program);
    devices.set(ifindex, known);
  }
  return [...devices.values()];
}

async function ethernetLink(run: Run, device: string, signal?: AbortSignal): Promise<Link> {
  const link = parseLink(await run('ip', linkArgv(device), signal));
  if (link?.ethernet === true) return link;
  const what = `device ${device} (${link?.kind ?? 'unknown'}) has no Ethernet headers, and flows over it can't be rewritten`;
  const remedy =
    'nothing was attached to it; give the other end a route over an Ethernet device (a VLAN device, tap or veth is one)';
  throw new OsmosisError('DATAPATH', `${what}; ${remedy}`);
}
