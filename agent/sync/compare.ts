/** What the destination has of what would go along; nothing is touched. */
import { lstatSync, readdirSync, readlinkSync, type Stats, statfsSync } from 'node:fs';
import { setImmediate as breathe } from 'node:timers/promises';
import type { Result } from '../control/protocol.ts';
import type { SyncFact, SyncFound } from '../control/sync-protocol.ts';
import { messageOf } from '../error.ts';
import { fileFact } from '../proc/files.ts';
import { beneath, type Directory, isAbsent } from './beneath.ts';
import { hashFile } from './blocks.ts';
import { isComparedByContent, type Print } from './listing.ts';
import { openToRead } from './reading.ts';

/** Other work of the agent has its turn after so many. */
const AT_ONCE = 512;
type Comparison = Result<'sync.compare'>;

/** Of files that were compared by what is in them: whether they are still the ones. */
export type Compared = Map<string, Print>;

export async function compareFiles(
  facts: readonly SyncFact[],
  trees: readonly string[],
  compared: Compared,
  signal: AbortSignal,
): Promise<Comparison> {
  const rooms = new Rooms();
  const problems: Comparison['problems'] = [];
  const found: (SyncFound | null)[] = [];
  const places: number[] = [];
  for (const [at, fact] of facts.entries()) {
    if (at % AT_ONCE === AT_ONCE - 1) await breathe();
    signal.throwIfAborted();
    try {
      const here = await look(fact, compared, signal);
      found.push(here ?? null);
      places.push(rooms.of(fact.path));
    } catch (error) {
      problems.push({ path: fact.path, problem: problemOf(error) });
      found.push(null);
      places.push(0);
    }
  }
  const there = new Set(trees.length === 0 ? [] : facts.map(({ path }) => path));
  const extra = trees.flatMap((tree) => onlyHere(tree, there));
  return { found, places, rooms: rooms.all(), extra, problems };
}

async function look(fact: SyncFact, compared: Compared, signal: AbortSignal): Promise<SyncFound | undefined> {
  const { path } = fact;
  let stat: Stats;
  try {
    stat = beneath('/', path, (place) => lstatSync(place));
  } catch (error) {
    if (isAbsent(error)) return undefined;
    throw error;
  }
  const type = typeOf(stat);
  const found = { type, mode: stat.mode & 0o7777, uid: stat.uid, gid: stat.gid, size: stat.size };
  if (type === 'symlink') return { ...found, target: beneath('/', path, (place) => readlinkSync(place)) };
  if (type !== 'file' || fact.type !== 'file') return found;
  if (isComparedByContent(fact)) return { ...found, ...(await contentOf(fact, compared, signal)) };
  const buildId = fileFact('', path, 'mapped')?.build_id;
  return { ...found, ...(buildId === undefined ? {} : { build_id: buildId }) };
}

/** Only where it can be the same. */
async function contentOf(
  { path, size }: SyncFact,
  compared: Compared,
  signal: AbortSignal,
): Promise<{ hash?: string }> {
  const file = await openToRead('/', path);
  if (file === undefined) return {};
  try {
    const print = await file.stat({ bigint: true });
    compared.set(path, print);
    if (Number(print.size) !== size) return {};
    return { hash: (await hashFile(file, size, signal)).hash };
  } finally {
    await file.close();
  }
}

function typeOf(stat: Stats): SyncFound['type'] {
  if (stat.isFile()) return 'file';
  if (stat.isDirectory()) return 'directory';
  return stat.isSymbolicLink() ? 'symlink' : 'other';
}

function problemOf(error: unknown): string {
  const code = error instanceof Error && 'code' in error ? error.code : undefined;
  return code === 'ENOTDIR' || code === 'ELOOP'
    ? 'a directory above it is a link at the destination, or no directory: links are not followed. Make it a directory there'
    : messageOf(error);
}

/** In a directory that was named: what the source has not; of a whole directory only itself. */
function onlyHere(tree: string, there: ReadonlySet<string>): string[] {
  try {
    using directory = beneath('/', tree, (_place, parent) =>
      parent.descend(tree.slice(tree.lastIndexOf('/') + 1)),
    );
    return [...extraIn(tree, directory, there)];
  } catch {
    // Not there, or no directory: that is told elsewhere.
    return [];
  }
}

function* extraIn(path: string, directory: Directory, there: ReadonlySet<string>): Generator<string> {
  for (const entry of readdirSync(directory.at('.'), { withFileTypes: true })) {
    const inside = `${path}/${entry.name}`;
    // Sockets are not copied, and so nobody misses them.
    if (!there.has(inside)) {
      if (!entry.isSocket()) yield inside;
    } else if (entry.isDirectory()) {
      using inner = directory.descend(entry.name);
      yield* extraIn(inside, inner, there);
    }
  }
}

/** File systems that something would be put on. */
class Rooms {
  readonly #rooms: Comparison['rooms'] = [];
  readonly #byDevice = new Map<number, number>();
  readonly #byDirectory = new Map<string, number>();

  /** Number of the file system that `path`, which is not there, would be on. */
  of(path: string): number {
    const directory = path.slice(0, path.lastIndexOf('/')) || '/';
    const known = this.#byDirectory.get(directory);
    if (known !== undefined) return known;
    const found = this.#look(directory);
    const number = found ?? this.of(directory);
    this.#byDirectory.set(directory, number);
    return number;
  }

  all(): Comparison['rooms'] {
    return this.#rooms;
  }

  #look(directory: string): number | undefined {
    try {
      const { dev } = lstatSync(directory);
      const known = this.#byDevice.get(dev);
      if (known !== undefined) return known;
      const { bavail, bsize } = statfsSync(directory);
      this.#rooms.push({ path: directory, free_bytes: bavail * bsize });
      this.#byDevice.set(dev, this.#rooms.length - 1);
      return this.#rooms.length - 1;
    } catch (error) {
      if (isAbsent(error)) return undefined;
      throw error;
    }
  }
}
