/** The source's half: says what goes along, and sends, pass by pass, what the destination has not or not any more. */
import { lstatSync } from 'node:fs';
import type { FileHandle } from 'node:fs/promises';
import type { SyncFact } from '../control/sync-protocol.ts';
import { OsmosisError } from '../error.ts';
import { processTree } from '../proc/tree.ts';
import { encodeSyncRecord, SYNC_ENTRIES_MAX, SYNC_PIECE_BYTES, type SyncRecord } from '../wire/sync.ts';
import { beneath, isAbsent } from './beneath.ts';
import { type Blocks, changedBlocks, hashFile } from './blocks.ts';
import type { SyncEntry } from './entry.ts';
import { type Listed, type Listing, listFiles, mtimeOf, type Print, samePrint } from './listing.ts';
import { isSystemPath } from './paths.ts';
import { openToRead } from './reading.ts';

/** What was written to within this may be written to again without looking newer: the kernel's clock of files ticks so. */
const TICK_MS = 100;

/** What the destination has at a path. */
type Known = {
  readonly index: number;
  readonly root: string;
  readonly type: SyncEntry['type'];
  /** Undefined: it has to be looked into again. */
  readonly print: Print | undefined;
  readonly blocks?: Blocks | undefined;
  readonly entry?: SyncEntry | undefined;
  /** In a directory that was named: it is missed when it is not found. */
  readonly inTree: boolean;
};

type Read = {
  readonly print: Print;
  readonly blocks: Blocks;
  readonly root: string;
  readonly inTree: boolean;
  readonly writable: boolean;
};
export type PassResult = { files: number; bytes: number; unsteady: string[] };

export class SyncSource {
  /** Root of the tree, as it is now. */
  readonly #pid: () => number;
  readonly #trees: readonly string[];
  /** Read to be compared, before anything was sent. */
  readonly #read = new Map<string, Read>();
  readonly #known = new Map<string, Known>();
  readonly #left = new Set<string>();
  /** What the plan was made of. */
  #planned: ReadonlySet<string> | undefined;
  #next = 0;

  constructor(pid: () => number, trees: readonly string[]) {
    this.#pid = pid;
    this.#trees = trees;
  }

  async list(signal: AbortSignal): Promise<Listing> {
    const pids = processTree(this.#pid()).map(({ pid }) => pid);
    const listing = await listFiles(pids, this.#trees, signal);
    this.#planned ??= new Set(listing.things.keys());
    return listing;
  }

  /** A library of the system that it has loaded since the plan is the destination's own; CRIU looks whether it is the same. */
  #isLeft({ path, shared }: SyncFact): boolean {
    return (
      this.#left.has(path) || shared === true || (this.#planned?.has(path) === false && isSystemPath(path))
    );
  }

  /** SHA-256 of each; null where it is gone. */
  async hashes(paths: readonly string[], signal: AbortSignal): Promise<(string | null)[]> {
    const { things } = await this.list(signal);
    const hashes: (string | null)[] = [];
    for (const path of paths) {
      const thing = things.get(path);
      hashes.push(thing === undefined ? null : await this.#hash(thing, signal));
    }
    return hashes;
  }

  async #hash(
    { root, fact: { path, why, writable = false } }: Listed,
    signal: AbortSignal,
  ): Promise<string | null> {
    const file = await openToRead(root, path);
    if (file === undefined) return null;
    try {
      const print = await file.stat({ bigint: true });
      const { hash, blocks } = await hashFile(file, Number(print.size), signal);
      this.#read.set(path, { print, blocks, root, inTree: why === 'tree', writable });
      return hash;
    } finally {
      await file.close();
    }
  }

  /** `same`: the destination has it already. `leave`: nothing is ever sent of it. */
  begin(same: readonly string[], leave: readonly string[]): void {
    for (const path of leave) this.#left.add(path);
    for (const path of same) {
      const read = this.#read.get(path);
      if (read === undefined) continue;
      const { print, blocks, root, inTree, writable } = read;
      // What the process will write to is looked into at once: the destination then makes a copy, while there is time.
      const settled = writable ? undefined : sure(print);
      this.#known.set(path, { index: this.#draw(), type: 'file', root, inTree, blocks, print: settled });
    }
    this.#read.clear();
  }

  /** Yields pieces of the stream; adds up in `result`. `final`: nothing changes any more, as far as it is the process's. */
  async *pass(final: boolean, result: PassResult, signal: AbortSignal): AsyncGenerator<Buffer> {
    yield* pieces(this.#records(final, result, signal));
  }

  async *#records(final: boolean, result: PassResult, signal: AbortSignal): AsyncGenerator<SyncRecord> {
    const { things, problems } = await this.list(signal);
    if (problems.length > 0)
      throw new OsmosisError(
        'SYNC_CHANGED',
        `files: ${problems.join('; ')}; the process goes on at the source`,
      );
    for (const thing of things.values()) {
      if (this.#isLeft(thing.fact)) continue;
      yield* this.#otherKind(thing.fact);
      if (thing.fact.type === 'file') yield* this.#file(thing, final, result, signal);
      else yield* this.#other(thing, result);
    }
    yield* this.#missing(things, final, result, signal);
    // What is made in a directory changes its time.
    yield* this.#directories(things);
  }

  /** Something else has its name now. */
  *#otherKind({ path, type }: SyncFact): Generator<SyncRecord> {
    const known = this.#known.get(path);
    if (known === undefined || known.type === type) return;
    this.#known.delete(path);
    yield { kind: 'gone', index: known.index, path };
  }

  *#other({ fact, root }: Listed, result: PassResult): Generator<SyncRecord> {
    const entry = entryOf(fact);
    const known = this.#known.get(fact.path);
    if (known?.entry !== undefined && sameEntry(known.entry, entry)) return;
    const index = known?.index ?? this.#draw();
    const inTree = fact.why === 'tree';
    this.#known.set(fact.path, { index, root, type: fact.type, print: undefined, entry, inTree });
    if (fact.type === 'symlink' && known === undefined) result.files++;
    yield { kind: 'entry', index, entry };
  }

  *#directories(things: Listing['things']): Generator<SyncRecord> {
    for (const { fact, print } of [...things.values()].reverse()) {
      const known = this.#known.get(fact.path);
      if (known?.type !== 'directory' || (known.print !== undefined && samePrint(known.print, print)))
        continue;
      this.#known.set(fact.path, { ...known, print });
      yield { kind: 'entry', index: known.index, entry: entryOf(fact) };
    }
  }

  async *#file(
    {
      fact,
      root,
      print,
      sharedMemory,
    }: Omit<Listed, 'fact'> & { fact: Pick<Listed['fact'], 'path' | 'why'> },
    final: boolean,
    result: PassResult,
    signal: AbortSignal,
  ): AsyncGenerator<SyncRecord> {
    const { path, why } = fact;
    const known = this.#known.get(path);
    const isWritten = sharedMemory && final;
    if (known?.print !== undefined && samePrint(known.print, print) && !isWritten) return;
    const file = await openToRead(root, path);
    if (file === undefined) return;
    try {
      const before = await file.stat({ bigint: true });
      if (!before.isFile()) return;
      const index = known?.index ?? this.#draw();
      const entry = entryOf({
        ...{ path, type: 'file' as const, mode: Number(before.mode & 0o7777n) },
        ...{ uid: Number(before.uid), gid: Number(before.gid), mtime: mtimeOf(before) },
      });
      yield { kind: 'entry', index, entry };
      const blocks = yield* this.#blocks(file, Number(before.size), index, known?.blocks, result, signal);
      yield { kind: 'done', index, size: blocks.size };
      const steady = samePrint(before, await file.stat({ bigint: true }));
      if (!steady) result.unsteady.push(path);
      if (known === undefined) result.files++;
      const inTree = known?.inTree === true || why === 'tree';
      const settled = steady ? sure(before) : undefined;
      this.#known.set(path, { index, root, type: 'file', print: settled, blocks, inTree });
    } finally {
      await file.close();
    }
  }

  async *#blocks(
    file: FileHandle,
    size: number,
    index: number,
    known: Blocks | undefined,
    result: PassResult,
    signal: AbortSignal,
  ): AsyncGenerator<SyncRecord, Blocks> {
    const changed = changedBlocks(file, size, known, signal);
    for (let next = await changed.next(); ; next = await changed.next()) {
      if (next.done === true) return next.value;
      const { offset, bytes } = next.value;
      result.bytes += bytes.length;
      for (let at = 0; at < bytes.length; at += SYNC_PIECE_BYTES)
        yield { kind: 'bytes', index, offset: offset + at, bytes: bytes.subarray(at, at + SYNC_PIECE_BYTES) };
    }
  }

  /** What was sent before and is not found now: it is gone, or only not in use any more. */
  async *#missing(
    things: Listing['things'],
    final: boolean,
    result: PassResult,
    signal: AbortSignal,
  ): AsyncGenerator<SyncRecord> {
    for (const [path, known] of [...this.#known].reverse()) {
      if (things.has(path) || this.#left.has(path)) continue;
      const print = printOf(known.root, path);
      const fact = { path, why: 'open' as const };
      if (print !== undefined && !known.inTree && known.type === 'file')
        yield* this.#file({ fact, root: known.root, print, sharedMemory: false }, final, result, signal);
      else if (print === undefined || known.inTree) {
        this.#known.delete(path);
        yield { kind: 'gone', index: known.index, path };
      }
    }
  }

  #draw(): number {
    if (this.#next >= SYNC_ENTRIES_MAX)
      throw new OsmosisError(
        'SYNC_CHANGED',
        `files: more than ${SYNC_ENTRIES_MAX} have come up while they were copied; the process goes on at the source`,
      );
    return this.#next++;
  }
}

function entryOf({ path, type, mode, uid, gid, mtime, target }: SyncEntry): SyncEntry {
  return { path, type, mode, uid, gid, mtime, ...(target === undefined ? {} : { target }) };
}

function sameEntry(left: SyncEntry, right: SyncEntry): boolean {
  return (
    left.type === right.type &&
    left.mode === right.mode &&
    left.uid === right.uid &&
    left.gid === right.gid &&
    left.target === right.target
  );
}

/** Undefined where it may change and look the same. */
function sure(print: Print): Print | undefined {
  return Date.now() - mtimeOf(print) > TICK_MS ? print : undefined;
}

function printOf(root: string, path: string): Print | undefined {
  try {
    const stat = beneath(root, path, (place) => lstatSync(place, { bigint: true }));
    return stat.isFile() ? stat : undefined;
  } catch (error) {
    if (isAbsent(error)) return undefined;
    throw error;
  }
}

/** Small records share a piece. */
async function* pieces(records: AsyncIterable<SyncRecord>): AsyncGenerator<Buffer> {
  let held: Buffer[] = [];
  let heldBytes = 0;
  for await (const record of records) {
    const bytes = encodeSyncRecord(record);
    if (heldBytes + bytes.length > SYNC_PIECE_BYTES && held.length > 0) {
      yield Buffer.concat(held);
      held = [];
      heldBytes = 0;
    }
    held.push(bytes);
    heldBytes += bytes.length;
  }
  if (held.length > 0) yield Buffer.concat(held);
}
