/**
 * What an agent must find again after its restart: one CBOR file an item, root only, replaced whole. It lives on tmpfs,
 * beside the kernel state that it describes, and ends with it.
 */
import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { decode, encode } from 'cborg';
import { OsmosisError } from '../error.ts';

export class Store<T> {
  readonly #directory: string;

  constructor(directory: string) {
    this.#directory = directory;
    mkdirSync(directory, { recursive: true, mode: 0o700 });
  }

  /** @throws OsmosisError NO_ROOM; then what was there is as it was. */
  put(name: string, item: T): void {
    const path = this.#path(name);
    try {
      writeFileSync(`${path}.new`, encode(item, { ignoreUndefinedProperties: true }), { mode: 0o600 });
      renameSync(`${path}.new`, path);
    } catch (cause) {
      rmSync(`${path}.new`, { force: true });
      throw isFull(cause) ? noRoom(this.#directory, cause) : cause;
    }
  }

  remove(name: string): void {
    rmSync(this.#path(name), { force: true });
  }

  /** Every item; one that can't be read (the host died while it was written) is left out. */
  all(): T[] {
    return readdirSync(this.#directory)
      .filter((file) => file.endsWith('.cbor'))
      .flatMap((file) => {
        try {
          return [decode(readFileSync(join(this.#directory, file))) as T];
        } catch {
          return [];
        }
      });
  }

  #path(name: string): string {
    return join(this.#directory, `${name}.cbor`);
  }
}

function isFull(cause: unknown): boolean {
  return cause instanceof Error && 'code' in cause && cause.code === 'ENOSPC';
}

function noRoom(directory: string, cause: unknown): OsmosisError {
  return new OsmosisError(
    'NO_ROOM',
    `there is no room in ${directory}: its file system is full. Free memory on this host, or enlarge its /run`,
    { cause },
  );
}
