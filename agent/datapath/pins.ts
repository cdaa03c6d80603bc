/** The bpffs that keeps programs and maps alive without any process, and what is in it. */
import { mkdir, readdir, rm, rmdir, stat, statfs } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import {
  ASK_ARGV,
  dumpArgv,
  dumpLine,
  type Element,
  loadArgv,
  MAPS,
  type MapName,
  mapPath,
  PROGRAMS,
  type ProgramName,
  parseDump,
  parseDumps,
  parseProgramIds,
  programLine,
  programPath,
} from './bpftool.ts';
import { LOOPBACK_NOTES } from './loopback.ts';
import type { Run } from './run.ts';

/** BPF_FS_MAGIC of linux/magic.h. */
const BPF_FS_MAGIC = 0xcafe4a11;
/** Has a directory, named by its ifindex, for each device that got its clsact from us. */
const OWN_CLSACT = 'clsact';

/** Mounts a bpffs at `pinDir` unless it is in one, loads the programs of `objectFile` and pins all. */
export async function loadPins(
  run: Run,
  pinDir: string,
  objectFile: string,
  signal?: AbortSignal,
): Promise<void> {
  await mkdir(pinDir, { recursive: true, mode: 0o700 });
  if (!(await isBpffs(pinDir))) await run('mount', ['-t', 'bpf', '-o', 'mode=0700', 'bpf', pinDir], signal);
  await removePinned(pinDir);
  await run('bpftool', loadArgv(pinDir, objectFile), signal);
}

/** Everything is there; half of it (the agent was killed while it loaded) is as good as nothing. */
export async function isPinned(pinDir: string): Promise<boolean> {
  const paths = [
    ...MAPS.map((map) => mapPath(pinDir, map)),
    ...PROGRAMS.map((program) => programPath(pinDir, program)),
  ];
  return (await Promise.all(paths.map(exists))).every(Boolean);
}

/** Unpins everything and unmounts the bpffs if it is mounted right here. The kernel frees what nobody holds. */
export async function removePins(run: Run, pinDir: string, signal?: AbortSignal): Promise<void> {
  if (!(await exists(pinDir))) return;
  if (await isBpffs(pinDir)) await removePinned(pinDir);
  if ((await stat(pinDir)).dev !== (await stat(dirname(pinDir))).dev) await run('umount', [pinDir], signal);
  await rmdir(pinDir);
}

export async function dumpMap(
  run: Run,
  pinDir: string,
  map: MapName,
  signal?: AbortSignal,
): Promise<Element[]> {
  return parseDump(await run('bpftool', dumpArgv(pinDir, map), signal));
}

/** Several maps by one process, in this order. */
export async function dumpMaps(
  run: Run,
  pinDir: string,
  maps: readonly MapName[],
  signal?: AbortSignal,
): Promise<Map<MapName, Element[]>> {
  const lines = maps.map((map) => dumpLine(pinDir, map));
  const dumps = parseDumps(await ask(run, lines, signal));
  return new Map(maps.map((map, index) => [map, dumps[index] ?? []]));
}

/** Program id → which of ours it is. */
export async function programIds(
  run: Run,
  pinDir: string,
  signal?: AbortSignal,
): Promise<Map<number, ProgramName>> {
  const lines = PROGRAMS.map((program) => programLine(pinDir, program));
  const ids = parseProgramIds(await ask(run, lines, signal));
  return new Map(PROGRAMS.map((program, index) => [ids[index] ?? 0, program]));
}

/** Remembers that a device's clsact is ours, for as long as the pins live: longer than the agent. */
export async function noteOwnClsact(pinDir: string, ifindex: number): Promise<void> {
  await mkdir(join(pinDir, OWN_CLSACT, String(ifindex)), { recursive: true });
}

export async function isOwnClsact(pinDir: string, ifindex: number): Promise<boolean> {
  return await exists(join(pinDir, OWN_CLSACT, String(ifindex)));
}

export async function forgetOwnClsact(pinDir: string, ifindex: number): Promise<void> {
  await rm(join(pinDir, OWN_CLSACT, String(ifindex)), { recursive: true, force: true });
}

async function ask(run: Run, lines: readonly string[], signal?: AbortSignal): Promise<string> {
  return await run('bpftool', ASK_ARGV, signal, `${lines.join('\n')}\n`);
}

async function removePinned(pinDir: string): Promise<void> {
  for (const name of ['programs', 'maps', OWN_CLSACT, LOOPBACK_NOTES]) {
    await removeDirectory(join(pinDir, name));
  }
}

async function removeDirectory(path: string): Promise<void> {
  if (!(await exists(path))) return;
  for (const entry of await readdir(path)) await rm(join(path, entry), { recursive: true, force: true });
  await rmdir(path);
}

async function isBpffs(path: string): Promise<boolean> {
  return (await statfs(path)).type === BPF_FS_MAGIC;
}

async function exists(path: string): Promise<boolean> {
  return await stat(path).then(
    () => true,
    () => false,
  );
}
