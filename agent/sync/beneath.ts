/**
 * Files below a directory, one component of a path at a time and no link followed: whoever may write in one of the
 * directories can't lead root elsewhere. Node has no openat(2); /proc/self/fd/N/NAME is the same.
 */
import { closeSync, constants, openSync } from 'node:fs';

const { O_DIRECTORY, O_NOFOLLOW, O_RDONLY } = constants;

/** An open directory. */
export class Directory implements Disposable {
  readonly #fd: number;

  private constructor(fd: number) {
    this.#fd = fd;
  }

  /** `path` is trusted: such as / or /proc/PID/root. */
  static open(path: string): Directory {
    return new Directory(openSync(path, O_RDONLY | O_DIRECTORY));
  }

  /** @throws ENOENT, ENOTDIR (also for a link) */
  descend(name: string): Directory {
    return new Directory(openSync(this.at(name), O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
  }

  /** Names `name` in it for one system call; `.`: itself. */
  at(name: string): string {
    return name === '.' ? `/proc/self/fd/${this.#fd}` : `/proc/self/fd/${this.#fd}/${name}`;
  }

  [Symbol.dispose](): void {
    closeSync(this.#fd);
  }
}

/** The directory that `path` is in, below `root`, and its name there. @throws ENOENT, ENOTDIR (also where a link is on the way) */
export function parentOf(root: string, path: string): { readonly parent: Directory; readonly name: string } {
  const parts = path.split('/').filter(Boolean);
  const name = parts.pop() ?? '.';
  let parent = Directory.open(root);
  try {
    for (const part of parts) {
      const next = parent.descend(part);
      parent[Symbol.dispose]();
      parent = next;
    }
  } catch (error) {
    parent[Symbol.dispose]();
    throw error;
  }
  return { parent, name };
}

/** What `use` makes of the place of `path` below `root`. */
export function beneath<T>(root: string, path: string, use: (place: string, parent: Directory) => T): T {
  const { parent, name } = parentOf(root, path);
  using _open = parent;
  return use(parent.at(name), parent);
}

/** The same for what needs no answer but that there is none: undefined where nothing is there. */
export function beneathIfThere<T>(root: string, path: string, use: (place: string) => T): T | undefined {
  try {
    return beneath(root, path, use);
  } catch (error) {
    if (isAbsent(error)) return undefined;
    throw error;
  }
}

/** ENOENT: it, or a directory on the way, is not there. */
export function isAbsent(error: unknown): boolean {
  return error instanceof Error && 'code' in error && error.code === 'ENOENT';
}
