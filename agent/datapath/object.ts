/** The compiled datapath: how it is built, and where it is. */
import { stat } from 'node:fs/promises';
import { arch } from 'node:os';
import { fileURLToPath } from 'node:url';
import { execa } from 'execa';
import { OsmosisError } from '../error.ts';

export const SOURCE_FILE = fileURLToPath(new URL('osmosis.bpf.c', import.meta.url));
/** Beside the source; images have it, a checkout gets it from `objectFile`. */
export const OBJECT_FILE = fileURLToPath(new URL('osmosis.bpf.o', import.meta.url));

const MULTIARCH = { x64: 'x86_64-linux-gnu', arm64: 'aarch64-linux-gnu' } as const;

/** For clang 14 or later; -g is for the type information (BTF) that maps are declared with. */
export function clangArgv(source: string, object: string): string[] {
  const triplet = Object.entries(MULTIARCH).find(([machine]) => machine === arch())?.[1];
  const include = triplet === undefined ? [] : [`-I/usr/include/${triplet}`];
  const warnings = ['-Wall', '-Wextra', '-Werror'];
  return ['-O2', '-g', ...warnings, '-target', 'bpf', '-mcpu=v3', ...include, '-c', source, '-o', object];
}

/** The object, compiled first where it is missing or older than the source. OsmosisError DATAPATH without clang. */
export async function objectFile(): Promise<string> {
  const [source, object] = await Promise.all([stat(SOURCE_FILE), stat(OBJECT_FILE).catch(() => undefined)]);
  if (object !== undefined && object.mtimeMs >= source.mtimeMs) return OBJECT_FILE;
  try {
    await execa('clang', clangArgv(SOURCE_FILE, OBJECT_FILE));
  } catch (cause) {
    throw new OsmosisError('DATAPATH', `${SOURCE_FILE} did not compile; it needs clang and libbpf-dev`, {
      cause,
    });
  }
  return OBJECT_FILE;
}
