/**
 * A piece of an image on the wire:
 *
 *   1b: 0 plain, 1 Zstandard (RFC 8878)
 *   rest: the piece, as it is or compressed
 *
 * Memory compresses well, and every byte is enciphered and deciphered twice on its way through the orchestrator.
 */
import { constants, zstdCompressSync, zstdDecompressSync } from 'node:zlib';
import { IMAGE_PIECE_BYTES, ImageError } from './image.ts';

const PLAIN = Uint8Array.of(0);
const ZSTD = Uint8Array.of(1);
/** Records are not cut to fit, so a piece may be this much longer than it is filled up to. */
const PIECE_BYTES_MAX = 4 * IMAGE_PIECE_BYTES;
/** Less is not worth the receiver's work. */
const SAVED_RATIO_MIN = 0.1;
const LEVEL = { params: { [constants.ZSTD_c_compressionLevel]: 1 } };

export function packPiece(piece: Buffer): Buffer {
  const packed = zstdCompressSync(piece, LEVEL);
  const isWorthIt = packed.length < piece.length * (1 - SAVED_RATIO_MIN);
  return isWorthIt ? Buffer.concat([ZSTD, packed]) : Buffer.concat([PLAIN, piece]);
}

/** @throws ImageError where the body is none that packPiece made. */
export function unpackPiece(body: Buffer): Buffer {
  if (body[0] === PLAIN[0]) return body.subarray(1);
  if (body[0] !== ZSTD[0]) throw new ImageError('a piece of an unknown form');
  try {
    return zstdDecompressSync(body.subarray(1), { maxOutputLength: PIECE_BYTES_MAX });
  } catch (cause) {
    throw new ImageError('a piece that does not decompress', { cause });
  }
}
