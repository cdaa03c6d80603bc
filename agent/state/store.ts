/**
 * What an agent must find again after its restart: one CBOR file an item, root only, replaced whole. It lives on tmpfs,
 * beside the kernel state that it describes, and ends with it.
 */
import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { decode, encode } from 'cborg';

export class Store<T> {
  readonly #directory: string;

  constructor(directory: string) {
    this.#directory = directory;
    mkdirSync(directory, { recursive: true, mode: 0o700 });
  }

  put(name: string, item: T): void {
    const path = this.#path(name);
    writeFileSync(`${path}.new`, encode(item, { ignoreUndefinedProperties: true }), { mode: 0o600 });
    renameSync(`${path}.new`, path);
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
