/** Writes the file of a suspended cell: FILE.partial until all of it is on disk. */
import { createHash, type Hash, randomBytes } from 'node:crypto';
import { type FileHandle, link, open, rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import { OsmosisError } from '../../agent/error.ts';
import { SEAL_BYTES } from '../../agent/wire/seal.ts';
import { fileFailure } from './failure.ts';
import {
  encodeHead,
  encodeState,
  encodeTail,
  HEAD_BYTES,
  headDigest,
  type ImageState,
  SALT_BYTES,
  STATE_BYTES,
  tailFields,
} from './format.ts';
import { type ClearMetadata, encodeMetadata, type SealedMetadata } from './metadata.ts';
import { ChunkSealer, type ImageKeys, keysOf, sealMetadata } from './sealing.ts';
import type { NewSecret } from './secret.ts';

export class ImageFileWriter {
  readonly #path: string;
  readonly #handle: FileHandle;
  readonly #keys: ImageKeys;
  readonly #digest: Uint8Array;
  readonly #sealer: ChunkSealer;
  readonly #checksum: Hash = createHash('sha256');
  #at = HEAD_BYTES + STATE_BYTES;
  #open = true;
  bytes = 0;

  private constructor(path: string, handle: FileHandle, keys: ImageKeys, digest: Uint8Array) {
    this.#path = path;
    this.#handle = handle;
    this.#keys = keys;
    this.#digest = digest;
    this.#sealer = new ChunkSealer(keys, digest);
  }

  /** @throws OsmosisError IMAGE_FILE where FILE, or FILE.partial, is there already or can't be made. */
  static async create(path: string, clear: ClearMetadata, secret: NewSecret): Promise<ImageFileWriter> {
    const salt = new Uint8Array(randomBytes(SALT_BYTES));
    const keys = keysOf(secret.material(salt), salt);
    const metadata = encodeMetadata(clear);
    const head = encodeHead({
      key: secret.source,
      salt,
      keyCheck: keys.check,
      clearBytes: metadata.length,
    });
    const digest = headDigest(head, metadata);
    const handle = await createNew(partial(path));
    const writer = new ImageFileWriter(path, handle, keys, digest);
    try {
      const state = encodeState({ state: 'undecided', attempts: 0, at: clear.suspended_at, host: '' });
      writer.#checksum.update(head).update(metadata);
      await handle.write(head, 0, head.length, 0);
      await handle.write(state, 0, state.length, HEAD_BYTES);
      await writer.#append(metadata, false);
      await writer.#append(digest, false);
      return writer;
    } catch (error) {
      await writer.discard();
      throw fileFailure(path, error);
    }
  }

  /** One piece of the image. @throws OsmosisError NO_ROOM, IMAGE_FILE */
  async piece(plaintext: Uint8Array): Promise<void> {
    await this.#append(this.#sealer.seal(plaintext, false));
    this.bytes += plaintext.length;
  }

  /** `last`: what closes the stream. All of it is on disk and has its name when this resolves. */
  async finish(last: Uint8Array, sealed: SealedMetadata): Promise<void> {
    await this.#append(this.#sealer.seal(last, true));
    const { chunks } = this.#sealer;
    const plaintext = encodeMetadata(sealed);
    await this.#append(sealMetadata(this.#keys, this.#digest, plaintext, chunks));
    const fields = { metadataBytes: plaintext.length + SEAL_BYTES, chunks };
    this.#checksum.update(tailFields(fields));
    const checksum = new Uint8Array(this.#checksum.digest());
    await this.#append(encodeTail({ ...fields, checksum }), false);
    try {
      await this.#handle.sync();
      await this.#close();
      // Not renamed: what is there by now under that name must not go.
      await link(partial(this.#path), this.#path);
      await rm(partial(this.#path));
      await syncDirectory(this.#path);
    } catch (error) {
      throw fileFailure(this.#path, error);
    }
  }

  /** The suspension has failed: nothing is left. */
  async discard(): Promise<void> {
    await this.#close();
    await rm(partial(this.#path), { force: true });
  }

  async #close(): Promise<void> {
    if (!this.#open) return;
    this.#open = false;
    await this.#handle.close();
  }

  async #append(bytes: Uint8Array, counted = true): Promise<void> {
    if (counted) this.#checksum.update(bytes);
    // Its place is taken at once: another piece may come before this one is written.
    const at = this.#at;
    this.#at += bytes.length;
    try {
      for (let done = 0; done < bytes.length; )
        done += (await this.#handle.write(bytes, done, bytes.length - done, at + done)).bytesWritten;
    } catch (error) {
      throw fileFailure(this.#path, error);
    }
  }
}

/** What has become of it since; durable when it resolves. @throws OsmosisError IMAGE_FILE */
export async function setState(
  path: string,
  { state, attempts, host }: { state: ImageState; attempts: number; host: string },
): Promise<void> {
  try {
    const handle = await open(path, 'r+');
    try {
      const bytes = encodeState({ state, attempts, at: Date.now(), host });
      await handle.write(bytes, 0, bytes.length, HEAD_BYTES);
      await handle.sync();
    } finally {
      await handle.close();
    }
  } catch (error) {
    throw fileFailure(path, error);
  }
}

function partial(path: string): string {
  return `${path}.partial`;
}

async function createNew(path: string): Promise<FileHandle> {
  try {
    return await open(path, 'wx', 0o600);
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'EEXIST')
      throw new OsmosisError(
        'IMAGE_FILE',
        `${path} is there already, of a suspension that is under way or has failed; nothing was touched. Remove it, or name another file.`,
      );
    throw fileFailure(path, error);
  }
}

async function syncDirectory(path: string): Promise<void> {
  const handle = await open(dirname(path), 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}
