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

/** The socket iterators, a second object of the same source: socket-programs.ts. */
export const SOCKETS_OBJECT_FILE = fileURLToPath(new URL('sockets.bpf.o', import.meta.url));

/** What wakes the peers of a cell that is back: socket-wakes.ts. */
export const WAKE_OBJECT_FILE = fileURLToPath(new URL('wake.bpf.o', import.meta.url));
const WAKE_SOURCE_FILE = fileURLToPath(new URL('wake.bpf.c', import.meta.url));

/** For clang 14 or later; -g is for the type information (BTF) that maps are declared with. */
export function clangArgv(source: string, object: string, defines: readonly string[] = []): string[] {
  const triplet = Object.entries(MULTIARCH).find(([machine]) => machine === arch())?.[1];
  const include = triplet === undefined ? [] : [`-I/usr/include/${triplet}`];
  const warnings = ['-Wall', '-Wextra', '-Werror'];
  return [
    '-O2',
    '-g',
    ...warnings,
    ...defines.map((name) => `-D${name}`),
    '-target',
    'bpf',
    '-mcpu=v3',
    ...include,
    '-c',
    source,
    '-o',
    object,
  ];
}

/** The datapath's object; all three are compiled first where missing or older than the source. OsmosisError DATAPATH without clang. */
export async function objectFile(): Promise<string> {
  await compile(SOURCE_FILE, SOCKETS_OBJECT_FILE, ['SOCKET_OPTIONS']);
  await compile(WAKE_SOURCE_FILE, WAKE_OBJECT_FILE);
  return await compile(SOURCE_FILE, OBJECT_FILE);
}

async function compile(from: string, file: string, defines: readonly string[] = []): Promise<string> {
  const [source, object] = await Promise.all([stat(from), stat(file).catch(() => undefined)]);
  if (object !== undefined && object.mtimeMs >= source.mtimeMs) return file;
  try {
    await execa('clang', clangArgv(from, file, defines));
  } catch (cause) {
    throw new OsmosisError('DATAPATH', `${from} did not compile; it needs clang and libbpf-dev`, {
      cause,
    });
  }
  return file;
}
