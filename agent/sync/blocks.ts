/** Files in blocks, each with a hash of what the destination has of it: of a file that changed only these are sent. */
import { createHash, hash } from 'node:crypto';
import type { FileHandle } from 'node:fs/promises';

/** What a log grows by, or a page of a database, costs one of these. */
const BLOCK_BYTES = 64 * 1024;
/** Of large files, so that their hashes stay small: 16 MiB for a tebibyte. */
const LARGE_BLOCK_BYTES = 1024 * 1024;
const LARGE_BYTES = 256 * 1024 * 1024;
/** Of SHA-256: enough that no two blocks are ever taken for one another. */
const HASH_BYTES = 16;

/** What the destination has of a file. */
export type Blocks = {
  readonly blockBytes: number;
  readonly size: number;
  /** HASH_BYTES a block. */
  readonly hashes: Buffer;
};

export type Piece = { readonly offset: number; readonly bytes: Buffer };

function blockBytesOf(size: number): number {
  return size < LARGE_BYTES ? BLOCK_BYTES : LARGE_BLOCK_BYTES;
}

/**
 * Reads a whole file; yields the blocks that are not as in `known`, and returns what the destination has then. Zeros that
 * the destination has anyway, where nothing was written, are not sent: holes stay holes.
 */
export async function* changedBlocks(
  file: FileHandle,
  size: number,
  known: Blocks | undefined,
  signal: AbortSignal,
): AsyncGenerator<Piece, Blocks> {
  const blockBytes = known?.blockBytes ?? blockBytesOf(size);
  const hashes = new HashList(Math.ceil(size / blockBytes));
  let offset = 0;
  for await (const bytes of blocksOf(file, blockBytes, signal)) {
    const digest = digestOf(bytes);
    const before = knownDigest(known, offset);
    if (before === undefined ? !isZero(bytes) : !digest.equals(before)) yield { offset, bytes };
    hashes.push(digest);
    offset += bytes.length;
  }
  return { blockBytes, size: offset, hashes: hashes.all() };
}

/** SHA-256 of a whole file, and what is known of a destination that has the same. */
export async function hashFile(
  file: FileHandle,
  size: number,
  signal: AbortSignal,
): Promise<{ hash: string; blocks: Blocks }> {
  const whole = createHash('sha256');
  const blockBytes = blockBytesOf(size);
  const hashes = new HashList(Math.ceil(size / blockBytes));
  let read = 0;
  for await (const bytes of blocksOf(file, blockBytes, signal)) {
    whole.update(bytes);
    hashes.push(digestOf(bytes));
    read += bytes.length;
  }
  return { hash: whole.digest('hex'), blocks: { blockBytes, size: read, hashes: hashes.all() } };
}

/** Every block of its own memory: it may still be on its way when the next one is read. */
async function* blocksOf(file: FileHandle, blockBytes: number, signal: AbortSignal): AsyncGenerator<Buffer> {
  for (let offset = 0; ; ) {
    signal.throwIfAborted();
    const block = Buffer.allocUnsafe(blockBytes);
    let filled = 0;
    while (filled < blockBytes) {
      const { bytesRead } = await file.read(block, filled, blockBytes - filled, offset + filled);
      if (bytesRead === 0) break;
      filled += bytesRead;
    }
    if (filled > 0) yield block.subarray(0, filled);
    if (filled < blockBytes) return;
    offset += filled;
  }
}

function digestOf(bytes: Buffer): Buffer {
  return hash('sha256', bytes, 'buffer').subarray(0, HASH_BYTES);
}

function knownDigest(known: Blocks | undefined, offset: number): Buffer | undefined {
  if (known === undefined) return undefined;
  const at = (offset / known.blockBytes) * HASH_BYTES;
  return at < known.hashes.length ? known.hashes.subarray(at, at + HASH_BYTES) : undefined;
}

const ZEROS = Buffer.alloc(LARGE_BLOCK_BYTES);

function isZero(bytes: Buffer): boolean {
  return bytes.equals(ZEROS.subarray(0, bytes.length));
}

/** Grows with a file that does. */
class HashList {
  #bytes: Buffer;
  #length = 0;

  constructor(blocks: number) {
    this.#bytes = Buffer.alloc(Math.max(blocks, 1) * HASH_BYTES);
  }

  push(digest: Buffer): void {
    if (this.#length + HASH_BYTES > this.#bytes.length)
      this.#bytes = Buffer.concat([this.#bytes, Buffer.alloc(this.#bytes.length)]);
    digest.copy(this.#bytes, this.#length);
    this.#length += HASH_BYTES;
  }

  all(): Buffer {
    return this.#bytes.subarray(0, this.#length);
  }
}
