/** What goes along with a process, as it is at the source now: what it has in use, and directories that were named. */
import { type BigIntStats, lstatSync, readdirSync, readlinkSync, statfsSync } from 'node:fs';
import { setImmediate as breathe } from 'node:timers/promises';
import type { SyncFact } from '../control/sync-protocol.ts';
import { OsmosisError } from '../error.ts';
import { fileFact } from '../proc/files.ts';
import { SYNC_ENTRIES_MAX } from '../wire/sync.ts';
import { beneath, Directory, isAbsent } from './beneath.ts';
import { type Need, needsOf } from './needs.ts';
import { isSystemPath, syncPathProblem } from './paths.ts';
import { some } from './some.ts';

/** A file is the same one, unwritten, where all of this is as before. */
export type Print = Pick<BigIntStats, 'dev' | 'ino' | 'size' | 'mtimeNs' | 'ctimeNs'>;

export type Listed = {
  readonly fact: SyncFact;
  readonly root: string;
  readonly print: Print;
  readonly sharedMemory: boolean;
};

export type Listing = {
  /** By path; what is above comes before what is in it. */
  readonly things: Map<string, Listed>;
  readonly notes: string[];
  readonly problems: string[];
};

/** Directories within one another. */
const DEPTH_MAX = 256;
/** Other work of the agent has its turn after so many. */
const AT_ONCE = 512;
/** f_type of file systems that hosts share (include/uapi/linux/magic.h, statfs(2)): NFS, SMB, Ceph, GFS2, OCFS2, Lustre, GPFS, AFS, 9P. */
const SHARED_TYPES = new Set([
  ...[0x6969, 0x517b, 0xff534d42, 0xfe534d42, 0x00c36400, 0x01161970, 0x7461636f],
  ...[0x0bd00bd0, 0x47504653, 0x5346414f, 0x6b414653, 0x01021997],
]);

/** @throws OsmosisError PREFLIGHT where there is more than one move takes; the abort reason of `signal`. */
export async function listFiles(
  pids: readonly number[],
  trees: readonly string[],
  signal: AbortSignal,
): Promise<Listing> {
  const lister = new Lister(signal);
  for (const [path, need] of needsOf(pids)) await lister.addNeed(path, need);
  const root = pids[0] === undefined ? '/' : `/proc/${pids[0]}/root`;
  for (const tree of trees) await lister.addTree(root, tree);
  return lister.listing();
}

class Lister {
  readonly #signal: AbortSignal;
  readonly #things = new Map<string, Listed>();
  readonly #sharedDevices = new Map<bigint, boolean>();
  readonly #problems: string[] = [];
  readonly #linked: string[] = [];
  readonly #standing: { root: string; path: string }[] = [];
  #sockets = 0;

  constructor(signal: AbortSignal) {
    this.#signal = signal;
  }

  listing(): Listing {
    const notes: string[] = [];
    const shared = [...this.#things.values()].filter(({ fact }) => fact.shared).map(({ fact }) => fact.path);
    if (this.#sockets > 0)
      notes.push(`${this.#sockets} unix sockets are left out: who listens makes its own`);
    if (this.#linked.length > 0)
      notes.push(`files of several names become files of their own: ${some(this.#linked)}`);
    if (shared.length > 0)
      notes.push(`on a file system that hosts share, and so not copied: ${some(shared)}`);
    return { things: this.#things, notes: [...notes, ...this.#beside()], problems: this.#problems };
  }

  /** What is where a process stands and does not go along: it may open it later. */
  *#beside(): Generator<string> {
    for (const { root, path } of this.#standing) {
      const names = beneath(root, path, (place) => readdirSync(place, { withFileTypes: true }));
      const others = names.filter((one) => !one.isSocket() && !this.#things.has(`${path}/${one.name}`));
      if (others.length > 0)
        yield `${path} has what the process does not have open (${some(others.map(({ name }) => name))}), which stays: ` +
          `--sync-path ${path} takes it along`;
    }
  }

  async addNeed(path: string, { root, why, writable, sharedMemory }: Need): Promise<void> {
    try {
      const stat = beneath(root, path, (place) => lstatSync(place, { bigint: true }));
      if (!stat.isFile() && !stat.isDirectory()) return;
      this.#addParents(root, path);
      if (why === 'directory' && syncPathProblem(path) === undefined) this.#standing.push({ root, path });
      const buildId =
        why === 'open' || stat.isDirectory() ? undefined : fileFact(root, path, 'mapped')?.build_id;
      const more = { ...(buildId && { build_id: buildId }), ...(writable && { writable }) };
      await this.#add(
        root,
        factOf(path, stat.isDirectory() ? 'directory' : why, stat, more),
        stat,
        sharedMemory,
      );
    } catch (error) {
      if (!isAbsent(error)) throw error;
    }
  }

  async addTree(root: string, path: string): Promise<void> {
    try {
      this.#addParents(root, path);
      const stat = beneath(root, path, (place) => lstatSync(place, { bigint: true }));
      if (!stat.isDirectory()) {
        this.#problems.push(
          `${path} is no directory at the source${stat.isSymbolicLink() ? ', but a link' : ''}`,
        );
        return;
      }
      await this.#add(root, factOf(path, 'tree', stat), stat);
      using directory = beneath(root, path, (_place, parent) => parent.descend(nameOf(path)));
      await this.#walk(root, path, directory, 0);
    } catch (error) {
      if (!isAbsent(error)) throw error;
      this.#problems.push(`there is no ${path} at the source`);
    }
  }

  async #walk(root: string, path: string, directory: Directory, depth: number): Promise<void> {
    if (depth > DEPTH_MAX) {
      this.#problems.push(`${path} is more than ${DEPTH_MAX} directories deep`);
      return;
    }
    for (const name of readdirSync(directory.at('.')).sort()) {
      const inside = `${path}/${name}`;
      // Not what the kernel has said: its name is no UTF-8.
      if (name.includes('\uFFFD')) this.#problems.push(`a name in ${path} is not in UTF-8`);
      else await this.#addInside(root, inside, name, directory, depth);
    }
  }

  async #addInside(
    root: string,
    path: string,
    name: string,
    directory: Directory,
    depth: number,
  ): Promise<void> {
    const place = directory.at(name);
    try {
      const stat = lstatSync(place, { bigint: true });
      if (stat.isSocket()) this.#sockets++;
      else if (stat.isSymbolicLink())
        await this.#add(root, factOf(path, 'tree', stat, { target: readlinkSync(place) }), stat);
      else if (stat.isFile()) {
        if (stat.nlink > 1n) this.#linked.push(path);
        await this.#add(root, factOf(path, 'tree', stat), stat);
      } else if (stat.isDirectory()) {
        await this.#add(root, factOf(path, 'tree', stat), stat);
        using inner = directory.descend(name);
        if (!this.#isShared(stat.dev, inner)) await this.#walk(root, path, inner, depth + 1);
      } else
        this.#problems.push(
          `${path} is a FIFO or a device, which is not copied: remove it, or name other directories`,
        );
    } catch (error) {
      // Gone since its directory was read.
      if (!isAbsent(error)) throw error;
    }
  }

  #addParents(root: string, path: string): void {
    const parts = path.split('/').slice(1, -1);
    for (let count = 1; count <= parts.length; count++) {
      const parent = `/${parts.slice(0, count).join('/')}`;
      if (this.#things.has(parent)) continue;
      const stat = beneath(root, parent, (place) => lstatSync(place, { bigint: true }));
      this.#things.set(parent, {
        fact: factOf(parent, 'parent', stat),
        root,
        print: stat,
        sharedMemory: false,
      });
    }
  }

  async #add(root: string, fact: SyncFact, print: BigIntStats, sharedMemory = false): Promise<void> {
    const before = this.#things.get(fact.path);
    // What the process has in use is more than what lies in a directory.
    if (before !== undefined && before.fact.why !== 'parent') return;
    const shared = fact.type === 'file' && this.#isShared(print.dev, fact.path, root);
    this.#things.set(fact.path, { fact: shared ? { ...fact, shared } : fact, root, print, sharedMemory });
    if (this.#things.size > SYNC_ENTRIES_MAX) throw tooMany();
    if (this.#things.size % AT_ONCE !== 0) return;
    await breathe();
    this.#signal.throwIfAborted();
  }

  #isShared(device: bigint, where: Directory | string, root = '/'): boolean {
    const known = this.#sharedDevices.get(device);
    if (known !== undefined) return known;
    const type =
      where instanceof Directory
        ? statfsSync(where.at('.')).type
        : beneath(root, where, (place) => statfsSync(place).type);
    const shared = SHARED_TYPES.has(type >>> 0);
    this.#sharedDevices.set(device, shared);
    return shared;
  }
}

function factOf(
  path: string,
  why: SyncFact['why'],
  stat: BigIntStats,
  more: Partial<SyncFact> = {},
): SyncFact {
  return {
    path,
    type: stat.isDirectory() ? 'directory' : stat.isSymbolicLink() ? 'symlink' : 'file',
    why,
    mode: Number(stat.mode & 0o7777n),
    uid: Number(stat.uid),
    gid: Number(stat.gid),
    mtime: mtimeOf(stat),
    size: Number(stat.size),
    allocated: Number(stat.blocks * 512n),
    ...more,
  };
}

/** ms since the epoch, to the microsecond: all that a double holds. */
export function mtimeOf({ mtimeNs }: Pick<BigIntStats, 'mtimeNs'>): number {
  return Number(mtimeNs / 1_000n) / 1_000;
}

export function samePrint(left: Print, right: Print): boolean {
  return (
    left.dev === right.dev &&
    left.ino === right.ino &&
    left.size === right.size &&
    left.mtimeNs === right.mtimeNs &&
    left.ctimeNs === right.ctimeNs
  );
}

/** What is copied for a path of the operating system is told by size and build-id alone. */
export function isComparedByContent({ path, type, shared, build_id }: SyncFact): boolean {
  return type === 'file' && shared !== true && build_id === undefined && !isSystemPath(path);
}

function nameOf(path: string): string {
  return path.slice(path.lastIndexOf('/') + 1);
}

function tooMany(): OsmosisError {
  return new OsmosisError(
    'PREFLIGHT',
    `it can't be moved: files: more than ${SYNC_ENTRIES_MAX} files would go along. Name smaller directories with --sync-path, and ` +
      'bring the others there beforehand (rsync).',
  );
}
