/** Writes the pieces of an image into a directory on tmpfs and proves that all of them came. */
import { closeSync, openSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { messageOf, OsmosisError } from '../error.ts';
import { unpackPiece } from '../wire/compression.ts';
import { decodeImagePiece, ImageError, type ImageSummary, ImageTally, sameImage } from '../wire/image.ts';

/** What a failure leaves. */
export const PROCESS_STAYS = 'the process goes on at the source';
export const IMAGE_STAYS = 'the image file is as it was';
/** Open files are kept while their records take turns; more than CRIU has page files for one tree of ours. */
const OPEN_FILES_MAX = 64;

export class ImageWriter {
  readonly #directory: string;
  readonly #stays: string;
  readonly #tally = new ImageTally();
  readonly #open = new Map<string, number>();
  readonly #sizes = new Map<string, number>();

  /** `stays`: what a failure leaves. */
  constructor(directory: string, stays: string = PROCESS_STAYS) {
    this.#directory = directory;
    this.#stays = stays;
  }

  get bytes(): number {
    return this.#tally.bytes;
  }

  /** A piece as packPiece made it. @throws as write does. */
  writePacked(body: Buffer): void {
    let piece: Buffer;
    try {
      piece = unpackPiece(body);
    } catch (cause) {
      throw imageFailure(cause, this.#stays);
    }
    this.write(piece);
  }

  /** @throws OsmosisError IMAGE_CORRUPT on a malformed piece, NO_ROOM when the file system is full. */
  write(piece: Buffer): void {
    const names = new Set<string>();
    try {
      for (const { name, offset, bytes } of decodeImagePiece(piece)) {
        if (offset !== (this.#sizes.get(name) ?? 0))
          throw new ImageError(`${name} does not go on at ${offset}`);
        names.add(name);
        this.#append(name, bytes, offset);
      }
    } catch (cause) {
      throw imageFailure(cause, this.#stays);
    }
    this.#tally.add(piece, names);
  }

  /** @throws OsmosisError IMAGE_CORRUPT where `expected` (the sender's tally) differs from what was written. */
  finish(expected: ImageSummary): ImageSummary {
    this.close();
    const got = this.#tally.finish();
    if (!sameImage(got, expected)) {
      throw new OsmosisError(
        'IMAGE_CORRUPT',
        `the image arrived damaged: ${got.files} files and ${got.bytes} bytes of ${expected.files} and ` +
          `${expected.bytes}, or another checksum; ${this.#stays}. Try again.`,
        { phase: 'freeze' },
      );
    }
    return got;
  }

  close(): void {
    for (const fd of this.#open.values()) closeSync(fd);
    this.#open.clear();
  }

  #append(name: string, bytes: Uint8Array, offset: number): void {
    const fd = this.#fd(name);
    let written = 0;
    while (written < bytes.length) {
      written += writeSync(fd, bytes, written, bytes.length - written, offset + written);
    }
    this.#sizes.set(name, offset + bytes.length);
  }

  #fd(name: string): number {
    const known = this.#open.get(name);
    if (known !== undefined) return known;
    if (this.#open.size >= OPEN_FILES_MAX) this.close();
    const fd = openSync(join(this.#directory, name), 'a+', 0o600);
    this.#open.set(name, fd);
    return fd;
  }
}

function imageFailure(cause: unknown, stays: string): OsmosisError {
  if (cause instanceof ImageError) {
    return new OsmosisError(
      'IMAGE_CORRUPT',
      `the image stream is malformed (${cause.message}); ${stays}. Try again.`,
      { phase: 'freeze', cause },
    );
  }
  const full = cause instanceof Error && 'code' in cause && cause.code === 'ENOSPC';
  if (full) {
    return new OsmosisError(
      'NO_ROOM',
      `the destination ran out of memory for the image (tmpfs full); ${stays}. ` +
        'Free memory there, or choose another host.',
      { phase: 'freeze', cause },
    );
  }
  return new OsmosisError('IMAGE_CORRUPT', `the image could not be written: ${messageOf(cause)}`, {
    phase: 'freeze',
    cause,
  });
}
