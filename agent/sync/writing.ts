/** Writes what comes in a pass: into files of its own only, everything else is put aside first, and written down. */
import {
  closeSync,
  constants,
  copyFile,
  fchmodSync,
  fchownSync,
  fsync,
  fsyncSync,
  ftruncateSync,
  futimesSync,
  lchownSync,
  linkSync,
  lstatSync,
  lutimesSync,
  mkdirSync,
  openSync,
  readlinkSync,
  renameSync,
  rmdirSync,
  type Stats,
  symlinkSync,
  unlinkSync,
  write,
} from 'node:fs';
import { promisify } from 'node:util';
import { execa } from 'execa';
import { messageOf, OsmosisError } from '../error.ts';
import type { SyncRecord } from '../wire/sync.ts';
import { beneath, beneathIfThere, parentOf } from './beneath.ts';
import type { Compared } from './compare.ts';
import { type SyncEntry, syncEntrySchema } from './entry.ts';
import type { Journal } from './journal.ts';
import { samePrint } from './listing.ts';
import { isClosedPath, isSystemPath, isWithin } from './paths.ts';
import { inodeOf } from './undo.ts';

const writeAsync = promisify(write);
const fsyncAsync = promisify(fsync);
const copyAsync = promisify(copyFile);

const { COPYFILE_EXCL, COPYFILE_FICLONE, O_CREAT, O_DIRECTORY, O_EXCL, O_NOFOLLOW, O_RDONLY, O_WRONLY } =
  constants;
const MS_PER_S = 1_000;
const HALF_A_MICROSECOND_S = 5e-7;

/** As the plan has it. */
export type Allowed = {
  readonly trees: readonly string[];
  /** Gives way. */
  readonly replace: ReadonlySet<string>;
  /** As at the source, and as it was when it was compared. */
  readonly same: ReadonlySet<string>;
  readonly compared: Compared;
};

type Own = { path: string; entry: SyncEntry; inode: string | undefined };
type Open = {
  readonly index: number;
  readonly fd: number;
  readonly entry: SyncEntry;
  readonly staged: string | undefined;
};

export class FileWriter {
  readonly #journal: Journal;
  readonly #allowed: Allowed;
  /** First part of the names of what is not in its place. */
  readonly #prefix: string;
  /** By number. */
  readonly #own = new Map<number, Own>();
  #open: Open | undefined;
  #asides = 0;
  /** A place on each file system that was written to, by its number. */
  readonly #written = new Map<string, string>();
  /** The process stands still, and may go on as soon as this pass has come: what it has on disk is to be on disk. */
  #final = false;
  files = 0;
  bytes = 0;

  constructor(id: string, journal: Journal, allowed: Allowed) {
    this.#prefix = `.osmosis-${id.slice(0, 8)}`;
    this.#journal = journal;
    this.#allowed = allowed;
  }

  beginPass(final: boolean): void {
    this.#final = final;
    this.files = 0;
    this.bytes = 0;
  }

  /** All that has come is on disk. syncfs(2) once, or each file by itself where every millisecond counts. */
  async endPass(signal: AbortSignal): Promise<void> {
    this.close();
    if (this.#final || this.#written.size === 0) return;
    await execa('sync', ['-f', ...this.#written.values()], { cancelSignal: signal, reject: false });
    this.#written.clear();
  }

  /** @throws OsmosisError SYNC_CHANGED where the destination is not as it was planned, NO_ROOM, SYNC_FAILED */
  async write(record: SyncRecord): Promise<void> {
    try {
      await this.#write(record);
    } catch (cause) {
      throw failureOf(cause, this.#own.get(record.index)?.path);
    }
  }

  async #write(record: SyncRecord): Promise<void> {
    switch (record.kind) {
      case 'entry':
        return await this.#entry(record.index, entryOf(record.entry));
      case 'bytes':
        return await this.#bytes(record.index, record.offset, record.bytes);
      case 'done':
        return await this.#done(record.index, record.size);
      case 'gone':
        return this.#gone(record.index, record.path);
    }
  }

  /** What is only here, in a directory that is copied as a whole, gives way too. */
  remove(paths: readonly string[]): void {
    for (const path of paths) {
      if (!this.#allowed.trees.some((tree) => path !== tree && isWithin(path, tree)))
        throw changed(path, 'it is in no directory that was named');
      try {
        beneathIfThere('/', path, (place) => lstatSync(place) && this.#putAside(path));
      } catch (cause) {
        throw failureOf(cause, path);
      }
    }
  }

  /** Whatever came last: a pass that ends in the middle of a file leaves it to be undone. */
  close(): void {
    if (this.#open !== undefined) closeSync(this.#open.fd);
    this.#open = undefined;
  }

  async #entry(index: number, entry: SyncEntry): Promise<void> {
    this.close();
    const own = this.#own.get(index);
    if (own !== undefined && (own.path !== entry.path || own.entry.type !== entry.type))
      throw changed(entry.path, 'it is of another kind now at the source');
    // A directory that is there is not touched: /dev is above /dev/shm.
    const isKept = entry.type === 'directory' && statOf(entry.path)?.isDirectory() === true;
    if (isClosedPath(entry.path) && !isKept) throw changed(entry.path, 'nothing is ever written there');
    this.#own.set(index, { path: entry.path, entry, inode: own?.inode });
    if (entry.type === 'directory') this.#directory(index, entry);
    else if (entry.type === 'symlink') this.#link(index, entry);
    else await this.#file(index, entry);
  }

  /** One that is there stays as it is. */
  #directory(index: number, entry: SyncEntry): void {
    const { path } = entry;
    const own = this.#own.get(index);
    const there = statOf(path);
    if (there === undefined) {
      this.#journal.add({ did: 'mkdir', path });
      beneath('/', path, (place) => mkdirSync(place, { mode: 0o700 }));
      this.#own.set(index, { path, entry, inode: beneath('/', path, inodeOf) });
    } else if (!there.isDirectory()) throw changed(path, 'it is no directory there');
    if (own?.inode !== undefined || there === undefined) setAttributes(entry);
  }

  #link(index: number, entry: SyncEntry): void {
    const { path, target = '' } = entry;
    const there = statOf(path);
    if (there?.isSymbolicLink() && beneath('/', path, (place) => readlinkSync(place)) === target) return;
    if (this.#isOwn(index, path)) beneath('/', path, (place) => unlinkSync(place));
    else if (there !== undefined) this.#makeRoom(index, path);
    const staged = this.#stage(path, index);
    beneath('/', staged, (place) => symlinkSync(target, place));
    this.#place(index, entry, staged);
    beneath('/', path, (place) => {
      lchownSync(place, entry.uid, entry.gid);
      lutimesSync(place, secondsOf(entry), secondsOf(entry));
    });
    this.files++;
  }

  async #file(index: number, entry: SyncEntry): Promise<void> {
    const { path } = entry;
    const there = statOf(path);
    if (this.#isOwn(index, path)) {
      const fd = beneath('/', path, (place) => openSync(place, O_WRONLY | O_NOFOLLOW));
      this.#open = { index, fd, entry, staged: undefined };
      return;
    }
    const aside = there === undefined ? undefined : this.#makeRoom(index, path);
    const staged = this.#stage(path, index);
    if (aside?.isSame) {
      const { parent, name } = parentOf('/', staged);
      using directory = parent;
      await copyAsync(directory.at(nameOf(aside.path)), directory.at(name), COPYFILE_EXCL | COPYFILE_FICLONE);
    }
    const flags = O_WRONLY | O_NOFOLLOW | (aside?.isSame ? 0 : O_CREAT | O_EXCL);
    const fd = beneath('/', staged, (place) => openSync(place, flags, 0o600));
    this.#open = { index, fd, entry, staged };
  }

  async #bytes(index: number, offset: number, bytes: Uint8Array): Promise<void> {
    if (this.#open?.index !== index) throw changed(undefined, 'bytes came for a file that is not open');
    const { fd } = this.#open;
    for (let at = 0; at < bytes.length; ) {
      const { bytesWritten } = await writeAsync(fd, bytes, at, bytes.length - at, offset + at);
      at += bytesWritten;
    }
    this.bytes += bytes.length;
  }

  async #done(index: number, size: number): Promise<void> {
    if (this.#open?.index !== index) throw changed(undefined, 'the end came of a file that is not open');
    const { fd, entry, staged } = this.#open;
    ftruncateSync(fd, size);
    fchownSync(fd, entry.uid, entry.gid);
    fchmodSync(fd, entry.mode);
    futimesSync(fd, secondsOf(entry), secondsOf(entry));
    if (this.#final) await fsyncAsync(fd);
    this.close();
    if (staged !== undefined) this.#place(index, entry, staged);
    this.files++;
  }

  /** It is at the source no more: ours goes, and what was the same is put aside. */
  #gone(index: number, path: string): void {
    this.close();
    const own = this.#own.get(index);
    this.#own.delete(index);
    if (own?.inode === undefined) {
      if (this.#allowed.same.has(path) && statOf(path) !== undefined && this.#isAsCompared(path))
        this.#putAside(path);
      return;
    }
    beneathIfThere('/', own.path, (place) => {
      if (inodeOf(place) !== own.inode) return;
      if (own.entry.type === 'directory') rmdirSync(place);
      else unlinkSync(place);
    });
  }

  /** What is at `path` was put there by this one. */
  #isOwn(index: number, path: string): boolean {
    const inode = this.#own.get(index)?.inode;
    return inode !== undefined && beneathIfThere('/', path, inodeOf) === inode;
  }

  /** What is there is not ours: it gives way only where the plan says so. */
  #makeRoom(index: number, path: string): { path: string; isSame: boolean } {
    const { same, replace } = this.#allowed;
    const wasOurs = this.#own.get(index)?.inode !== undefined;
    if (wasOurs) throw changed(path, 'somebody has put something else there');
    if (same.has(path) && this.#isAsCompared(path)) return { path: this.#putAside(path), isSame: true };
    if (replace.has(path) && !isSystemPath(path)) return { path: this.#putAside(path), isSame: false };
    throw changed(path, 'it is there now, and is not what was planned');
  }

  #isAsCompared(path: string): boolean {
    const print = this.#allowed.compared.get(path);
    const now = beneath('/', path, (place) => lstatSync(place, { bigint: true }));
    if (print !== undefined && samePrint(print, now)) return true;
    throw changed(path, 'it has been written to since it was compared');
  }

  #putAside(path: string): string {
    const aside = `${path.slice(0, path.lastIndexOf('/'))}/${this.#prefix}-${this.#asides++}.old`;
    this.#journal.add({ did: 'put aside', path, aside });
    beneath('/', path, (place, parent) => renameSync(place, parent.at(nameOf(aside))));
    return aside;
  }

  #stage(path: string, index: number): string {
    const staged = `${path.slice(0, path.lastIndexOf('/'))}/${this.#prefix}-${index}.new`;
    this.#journal.add({ did: 'stage', path, staged });
    return staged;
  }

  /** link(2) never replaces what somebody else has put there in the meantime. */
  #place(index: number, entry: SyncEntry, staged: string): void {
    const { path } = entry;
    const inode = beneath('/', staged, inodeOf);
    this.#journal.add({ did: 'place', path, inode });
    beneath('/', path, (place, parent) => {
      linkSync(parent.at(nameOf(staged)), place);
      unlinkSync(parent.at(nameOf(staged)));
      if (this.#final) syncDirectory(parent.at('.'));
    });
    this.#own.set(index, { path, entry, inode });
    this.#written.set(inode.slice(0, inode.indexOf(':')), path);
  }
}

/** @throws OsmosisError SYNC_FAILED */
function entryOf(said: unknown): SyncEntry {
  const parsed = syncEntrySchema.safeParse(said);
  if (parsed.success) return parsed.data;
  const why = parsed.error.issues[0]?.message ?? 'invalid';
  throw new OsmosisError('SYNC_FAILED', `the files came damaged: an entry that is none (${why}); ${GOES_ON}`);
}

function statOf(path: string): Stats | undefined {
  return beneathIfThere('/', path, (place) => lstatSync(place));
}

function setAttributes(entry: SyncEntry): void {
  const { path, uid, gid, mode } = entry;
  beneath('/', path, (place) => {
    const fd = openSync(place, O_RDONLY | O_NOFOLLOW | O_DIRECTORY);
    try {
      fchownSync(fd, uid, gid);
      fchmodSync(fd, mode);
      futimesSync(fd, secondsOf(entry), secondsOf(entry));
    } finally {
      closeSync(fd);
    }
  });
}

/** As utimensat(2) gets it by way of a double, rounded down: in the middle of the microsecond that is meant. */
function secondsOf({ mtime }: SyncEntry): number {
  return mtime / MS_PER_S + HALF_A_MICROSECOND_S;
}

function syncDirectory(place: string): void {
  const fd = openSync(place, O_RDONLY | O_DIRECTORY);
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

function nameOf(path: string): string {
  return path.slice(path.lastIndexOf('/') + 1);
}

const GOES_ON =
  'the process goes on at the source, and the files at the destination are put back as they were';

function changed(path: string | undefined, what: string): OsmosisError {
  const where = path === undefined ? '' : `${path}: `;
  return new OsmosisError('SYNC_CHANGED', `files: ${where}${what}; ${GOES_ON}. Plan anew (--dry-run).`);
}

function failureOf(cause: unknown, path = 'a file'): OsmosisError {
  if (cause instanceof OsmosisError) return cause;
  const code = cause instanceof Error && 'code' in cause ? cause.code : undefined;
  if (code === 'ENOSPC' || code === 'EDQUOT')
    return new OsmosisError(
      'NO_ROOM',
      `the destination has no room for ${path}; ${GOES_ON}. Make room there.`,
      { cause },
    );
  if (code === 'EEXIST') return changed(path, 'somebody has put something there');
  return new OsmosisError(
    'SYNC_FAILED',
    `${path} can't be written at the destination: ${messageOf(cause)}; ${GOES_ON}`,
    {
      cause,
    },
  );
}
