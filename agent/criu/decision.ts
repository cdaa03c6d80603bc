/**
 * The decision of a migration: one file at the source, made by linking, so that whoever comes first has decided and
 * nobody can decide otherwise afterwards. No file means undecided; after a crash of the host that means abort.
 */
import {
  closeSync,
  existsSync,
  fsyncSync,
  linkSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';

export type Verdict = 'commit' | 'abort';

export class Decision {
  readonly path: string;

  constructor(directory: string, migration: string) {
    this.path = join(directory, migration);
  }

  /**
   * Writes both candidates ahead of time, so that deciding is one link(2) and one fsync(2), and the key under which the
   * destination may ask for the verdict, also after this host has crashed.
   */
  prepare(key: Uint8Array): void {
    mkdirSync(dirname(this.path), { recursive: true, mode: 0o700 });
    for (const verdict of ['commit', 'abort'] as const)
      writeDurably(`${this.path}.${verdict}`, `${verdict}\n`);
    writeDurably(`${this.path}.key`, key);
  }

  key(): Uint8Array | undefined {
    return existsSync(`${this.path}.key`) ? new Uint8Array(readFileSync(`${this.path}.key`)) : undefined;
  }

  /** The verdict that stands after this call: ours, or that of whoever was first. Durable when it returns. */
  decide(verdict: Verdict): Verdict {
    try {
      linkSync(`${this.path}.${verdict}`, this.path);
    } catch (error) {
      const standing = this.read();
      if (standing !== undefined) return standing;
      // Cleared, or never prepared: nobody can commit it any more.
      if (verdict === 'abort' && !existsSync(`${this.path}.commit`)) return 'abort';
      throw error;
    }
    syncDirectory(dirname(this.path));
    return verdict;
  }

  read(): Verdict | undefined {
    if (!existsSync(this.path)) return undefined;
    return readFileSync(this.path, 'utf8').trim() === 'commit' ? 'commit' : 'abort';
  }

  /** Once the destination knows: nobody will ask any more. */
  clear(): void {
    for (const suffix of ['.commit', '.abort', '.key', '']) rmSync(this.path + suffix, { force: true });
  }
}

/** Clears what is older than `age_ms` in `directory`. */
export function clearOldDecisions(directory: string, age_ms: number): void {
  for (const name of existsSync(directory) ? readdirSync(directory) : []) {
    const path = join(directory, name);
    if (Date.now() - statSync(path).mtimeMs > age_ms) rmSync(path, { force: true });
  }
}

function writeDurably(path: string, content: string | Uint8Array): void {
  const fd = openSync(path, 'w', 0o600);
  try {
    writeFileSync(fd, content);
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

function syncDirectory(path: string): void {
  const fd = openSync(path, 'r');
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}
