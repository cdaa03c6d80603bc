/**
 * The process image as one stream. A piece (the body of one `data` frame) holds whole records:
 *
 *   1b: length of the name, 1..IMAGE_NAME_BYTES_MAX
 *   name: a plain file name in UTF-8, no separator
 *   6b: offset of the bytes in that file, big-endian
 *   4b: number of bytes, big-endian; 0 makes an empty file
 *   the bytes
 *
 * Records of one file come in rising offset; files may take turns, so that the large ones flow while CRIU still writes
 * them. The closing `end` frame says how many bytes and files there were and the SHA-256 over all pieces: a stream that
 * was cut or altered is never restored from.
 */
import { createHash, type Hash } from 'node:crypto';

export const IMAGE_NAME_BYTES_MAX = 255;
/** Pieces are filled up to this size: six stages from CRIU to CRIU work on different pieces at the same time. */
export const IMAGE_PIECE_BYTES = 256 * 1024;
const FIXED_BYTES = 11;

export type ImageRecord = { readonly name: string; readonly offset: number; readonly bytes: Uint8Array };
export type ImageSummary = { readonly bytes: number; readonly files: number; readonly sha256: Uint8Array };

/** The stream is not one that createImagePieces made. */
export class ImageError extends Error {
  override readonly name = 'ImageError';
}

export function encodeImageRecord({ name, offset, bytes }: ImageRecord): Buffer {
  const nameBytes = Buffer.from(name);
  if (!isPlainName(name, nameBytes.length))
    throw new ImageError(`not an image file name: ${JSON.stringify(name)}`);
  const head = Buffer.alloc(FIXED_BYTES + nameBytes.length);
  head.writeUInt8(nameBytes.length, 0);
  head.set(nameBytes, 1);
  head.writeUIntBE(offset, 1 + nameBytes.length, 6);
  head.writeUInt32BE(bytes.length, 7 + nameBytes.length);
  return Buffer.concat([head, bytes]);
}

/** @throws ImageError where the piece does not hold whole, well-formed records. */
export function* decodeImagePiece(piece: Buffer): Generator<ImageRecord> {
  let at = 0;
  while (at < piece.length) {
    const nameLength = piece.readUInt8(at);
    if (at + FIXED_BYTES + nameLength > piece.length) throw new ImageError('record cut short');
    const name = piece.toString('utf8', at + 1, at + 1 + nameLength);
    if (!isPlainName(name, nameLength))
      throw new ImageError(`not an image file name: ${JSON.stringify(name)}`);
    const offset = piece.readUIntBE(at + 1 + nameLength, 6);
    const length = piece.readUInt32BE(at + 7 + nameLength);
    const start = at + FIXED_BYTES + nameLength;
    if (start + length > piece.length) throw new ImageError(`record of ${name} cut short`);
    yield { name, offset, bytes: piece.subarray(start, start + length) };
    at = start + length;
  }
}

/** Both ends run one over the same pieces and compare. */
export class ImageTally {
  readonly #hash: Hash = createHash('sha256');
  readonly #names = new Set<string>();
  bytes = 0;

  /** Call once a piece, with the names of the files that it holds records of. */
  add(piece: Uint8Array, names: Iterable<string>): void {
    this.#hash.update(piece);
    this.bytes += piece.length;
    for (const name of names) this.#names.add(name);
  }

  finish(): ImageSummary {
    return { bytes: this.bytes, files: this.#names.size, sha256: new Uint8Array(this.#hash.digest()) };
  }
}

export function sameImage(left: ImageSummary, right: ImageSummary): boolean {
  return (
    left.bytes === right.bytes &&
    left.files === right.files &&
    Buffer.compare(Buffer.from(left.sha256), Buffer.from(right.sha256)) === 0
  );
}

function isPlainName(name: string, byteLength: number): boolean {
  if (byteLength < 1 || byteLength > IMAGE_NAME_BYTES_MAX) return false;
  return name !== '.' && name !== '..' && !name.includes('/') && !name.includes('\0');
}
