/** Reads the file of a suspended cell. What it says is believed only once it has been opened with its key. */
import { createHash } from 'node:crypto';
import { type FileHandle, open } from 'node:fs/promises';
import { OsmosisError } from '../../agent/error.ts';
import { equalBytes } from '../../agent/wire/bytes.ts';
import { fileFailure } from './failure.ts';
import {
  DIGEST_BYTES,
  damaged,
  decodeHead,
  decodeState,
  decodeTail,
  HEAD_BYTES,
  type Head,
  headDigest,
  STATE_BYTES,
  type State,
  TAIL_BYTES,
  type Tail,
  tailFields,
} from './format.ts';
import { type ClearMetadata, decodeClear, decodeSealed, type SealedMetadata } from './metadata.ts';
import { CHUNK_HEAD_BYTES, ChunkOpener, chunkHead, type ImageKeys, keysOf, openMetadata } from './sealing.ts';
import type { Material } from './secret.ts';

/** Of a file whose checksum is computed, at a time. */
const READ_BYTES = 1024 * 1024;

type Parts = {
  readonly head: Head;
  readonly headBytes: Uint8Array;
  readonly clearBytes: Uint8Array;
  readonly tail: Tail;
  readonly chunksAt: number;
  readonly metadataAt: number;
};

export class ImageFileReader {
  readonly path: string;
  readonly clear: ClearMetadata;
  readonly state: State;
  readonly bytes: number;
  readonly #handle: FileHandle;
  readonly #parts: Parts;

  private constructor(
    path: string,
    handle: FileHandle,
    read: { parts: Parts; clear: ClearMetadata; state: State; bytes: number },
  ) {
    this.path = path;
    this.#handle = handle;
    this.#parts = read.parts;
    this.clear = read.clear;
    this.state = read.state;
    this.bytes = read.bytes;
  }

  /** @throws OsmosisError IMAGE_FILE, IMAGE_FORMAT, IMAGE_CORRUPT */
  static async open(path: string): Promise<ImageFileReader> {
    let handle: FileHandle | undefined;
    try {
      handle = await open(path, 'r');
      return new ImageFileReader(path, handle, await readParts(handle));
    } catch (error) {
      await handle?.close();
      throw fileFailure(path, error);
    }
  }

  get key(): Head['key'] {
    return this.#parts.head.key;
  }

  /** @throws OsmosisError IMAGE_KEY where it is another image's key, IMAGE_CORRUPT */
  async unlock(material: Material): Promise<UnlockedImage> {
    try {
      const { head, headBytes, clearBytes, tail, metadataAt } = this.#parts;
      const keys = keysOf(material(head.salt), head.salt);
      if (!equalBytes(keys.check, head.keyCheck)) {
        const what = head.key.kind === 'key' ? 'key' : 'passphrase';
        throw new OsmosisError(
          'IMAGE_KEY',
          `${this.path}: this is not the ${what} that it was sealed with. Nothing was touched.`,
          { phase: 'plan', owner: 'file' },
        );
      }
      const digest = headDigest(headBytes, clearBytes);
      const box = await readAt(this.#handle, metadataAt, tail.metadataBytes);
      const metadata = decodeSealed(openMetadata(keys, digest, box, tail.chunks));
      return { metadata, pieces: () => this.#pieces(keys, digest) };
    } catch (error) {
      throw fileFailure(this.path, error);
    }
  }

  /** The pieces of the image, and what closes it, as they were written. @throws OsmosisError IMAGE_CORRUPT */
  async *#pieces(keys: ImageKeys, digest: Uint8Array): AsyncGenerator<Piece> {
    const { tail, chunksAt, metadataAt } = this.#parts;
    const opener = new ChunkOpener(keys, digest);
    let at = chunksAt;
    try {
      for (let read = 1; ; read++) {
        const head = await readAt(this.#handle, at, CHUNK_HEAD_BYTES);
        const { boxBytes } = chunkHead(head);
        const piece = opener.open(head, await readAt(this.#handle, at + CHUNK_HEAD_BYTES, boxBytes));
        at += CHUNK_HEAD_BYTES + boxBytes;
        if (piece.last !== (read === tail.chunks) || at > metadataAt)
          throw damaged('its chunks are not those that it had');
        yield piece;
        if (piece.last) return;
      }
    } catch (error) {
      throw fileFailure(this.path, error);
    }
  }

  /** Whether its checksum agrees: what can be said without its key. */
  async isIntact(): Promise<boolean> {
    const { headBytes, clearBytes, tail, chunksAt, metadataAt } = this.#parts;
    const hash = createHash('sha256').update(headBytes).update(clearBytes);
    const end = metadataAt + tail.metadataBytes;
    for (let at = chunksAt; at < end; at += READ_BYTES)
      hash.update(await readAt(this.#handle, at, Math.min(READ_BYTES, end - at)));
    return equalBytes(new Uint8Array(hash.update(tailFields(tail)).digest()), tail.checksum);
  }

  async close(): Promise<void> {
    await this.#handle.close();
  }
}

export type Piece = { readonly plaintext: Uint8Array; readonly last: boolean };
export type UnlockedImage = { readonly metadata: SealedMetadata; pieces(): AsyncGenerator<Piece> };

async function readParts(handle: FileHandle) {
  const { size } = await handle.stat();
  const headBytes = await readAt(handle, 0, HEAD_BYTES);
  const head = decodeHead(headBytes);
  const clearAt = HEAD_BYTES + STATE_BYTES;
  const clearBytes = await readAt(handle, clearAt, head.clearBytes);
  const digest = await readAt(handle, clearAt + head.clearBytes, DIGEST_BYTES);
  if (!equalBytes(digest, headDigest(headBytes, clearBytes))) throw damaged('its head');
  const state = decodeState(await readAt(handle, HEAD_BYTES, STATE_BYTES));
  const chunksAt = clearAt + head.clearBytes + DIGEST_BYTES;
  const tail = decodeTail(await readAt(handle, Math.max(size - TAIL_BYTES, 0), TAIL_BYTES));
  const metadataAt = size - TAIL_BYTES - tail.metadataBytes;
  if (metadataAt < chunksAt) throw damaged('its end');
  const parts: Parts = { head, headBytes, clearBytes, tail, chunksAt, metadataAt };
  return { parts, clear: decodeClear(clearBytes), state, bytes: size };
}

async function readAt(handle: FileHandle, at: number, length: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(length);
  let read = 0;
  while (read < length) {
    const { bytesRead } = await handle.read(bytes, read, length - read, at + read);
    if (bytesRead === 0) throw damaged('it was cut short');
    read += bytesRead;
  }
  return bytes;
}
