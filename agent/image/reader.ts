/** Reads an image directory as pieces while CRIU is still writing it. */
import { closeSync, existsSync, fstatSync, openSync, readdirSync, readSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { encodeImageRecord, IMAGE_PIECE_BYTES } from '../wire/image.ts';

/** How long the reader rests when the growing files have nothing new. */
const POLL_MS = 3;
/**
 * Memory pages: the only files that are large, and that CRIU only ever appends to. It numbers them from 1. They are asked
 * for by name: listing a directory that CRIU makes thousands of files in keeps CRIU waiting.
 */
const growingFile = (number: number): string => `pages-${number}.img`;
/** What is of no use at the destination: CRIU's own log and figures. */
const LEFT_OUT = /\.log$|^stats-/;

export type ImagePiece = { readonly piece: Buffer; readonly names: readonly string[] };

/**
 * Yields every byte of every image file in `directory` once. `isComplete` turns true when CRIU has written all of it
 * (its post-dump hook runs); until then only the growing files are read.
 * @throws whatever reading throws, and the abort reason of `signal`.
 */
export async function* readImage(
  directory: string,
  isComplete: () => boolean,
  signal: AbortSignal,
): AsyncGenerator<ImagePiece> {
  const sent = new Map<string, number>();
  while (!isComplete()) {
    signal.throwIfAborted();
    let idle = true;
    for (let number = 1; existsSync(join(directory, growingFile(number))); number++) {
      for (const piece of readRest(directory, growingFile(number), sent)) {
        idle = false;
        yield piece;
      }
    }
    if (idle) await sleep(POLL_MS, undefined, { signal });
  }
  yield* packed(readAll(directory, sent));
}

function* readAll(directory: string, sent: Map<string, number>): Generator<ImagePiece> {
  for (const name of imageFiles(directory)) yield* readRest(directory, name, sent);
}

/** Small records share a piece: thousands of image files are thousands of sockets. */
function* packed(pieces: Iterable<ImagePiece>): Generator<ImagePiece> {
  let held: ImagePiece[] = [];
  let heldBytes = 0;
  for (const one of pieces) {
    if (heldBytes + one.piece.length > IMAGE_PIECE_BYTES && held.length > 0) {
      yield joined(held);
      held = [];
      heldBytes = 0;
    }
    held.push(one);
    heldBytes += one.piece.length;
  }
  if (held.length > 0) yield joined(held);
}

function joined(pieces: ImagePiece[]): ImagePiece {
  return {
    piece: Buffer.concat(pieces.map(({ piece }) => piece)),
    names: pieces.flatMap(({ names }) => names),
  };
}

function imageFiles(directory: string): string[] {
  return readdirSync(directory, { withFileTypes: true })
    .filter((entry) => entry.isFile() && !LEFT_OUT.test(entry.name))
    .map((entry) => entry.name)
    .sort();
}

/** Synchronous: the files are in memory (tmpfs), and 8,000 of them through the thread pool cost more than they hold. */
function* readRest(directory: string, name: string, sent: Map<string, number>): Generator<ImagePiece> {
  const fd = openSync(join(directory, name), 'r');
  try {
    const size = fstatSync(fd).size;
    let offset = sent.get(name) ?? 0;
    if (sent.has(name) && offset >= size) return;
    do {
      const bytes = Buffer.allocUnsafe(Math.min(size - offset, IMAGE_PIECE_BYTES));
      const count = readSync(fd, bytes, 0, bytes.length, offset);
      yield { piece: encodeImageRecord({ name, offset, bytes: bytes.subarray(0, count) }), names: [name] };
      offset += count;
      sent.set(name, offset);
      if (count === 0) return;
    } while (offset < size);
  } finally {
    closeSync(fd);
  }
}
