/**
 * Files on their way, as one stream. A piece (the body of one `data` frame) holds whole records:
 *
 *   1b: kind, 1 entry, 2 bytes, 3 done, 4 gone
 *   4b: number of the file or directory, big-endian; given by its entry
 *   6b: offset of the bytes in the file, big-endian; of `done` the size of the file; else 0
 *   4b: length of what follows, big-endian
 *   entry: what it is, in CBOR (SyncEntry). bytes: the bytes. done: nothing. gone: its path, in UTF-8
 *
 * An entry names a thing and says what it is to be. Of a file that has to be written there follow its bytes, where they
 * differ from what the destination has, and `done`; what is not said is as it was, or zero. `gone`: it is there no more.
 * The closing `end` frame is that of an image (image.ts).
 */
import { decode as decodeCbor, encode as encodeCbor } from 'cborg';

/** Files, directories and links of one move. */
export const SYNC_ENTRIES_MAX = 65_536;
/** Records are filled up to this. */
export const SYNC_PIECE_BYTES = 256 * 1024;
const OFFSET_MAX = 2 ** 48 - 1;
const HEAD_BYTES = 15;
const KINDS = { entry: 1, bytes: 2, done: 3, gone: 4 } as const;

export type SyncRecord =
  /** Of what is decoded nobody has looked at the entry and the path yet. */
  | { readonly kind: 'entry'; readonly index: number; readonly entry: unknown }
  | { readonly kind: 'bytes'; readonly index: number; readonly offset: number; readonly bytes: Uint8Array }
  | { readonly kind: 'done'; readonly index: number; readonly size: number }
  | { readonly kind: 'gone'; readonly index: number; readonly path: string };

/** The stream is not one that encodeSyncRecord made. */
export class SyncStreamError extends Error {
  override readonly name = 'SyncStreamError';
}

export function encodeSyncRecord(record: SyncRecord): Buffer {
  switch (record.kind) {
    case 'entry':
      return joined(record, 0, encodeCbor(record.entry, { ignoreUndefinedProperties: true }));
    case 'bytes':
      return joined(record, record.offset, record.bytes);
    case 'done':
      return joined(record, record.size, new Uint8Array());
    case 'gone':
      return joined(record, 0, Buffer.from(record.path));
  }
}

function joined({ kind, index }: SyncRecord, offset: number, body: Uint8Array): Buffer {
  const head = Buffer.alloc(HEAD_BYTES);
  head.writeUInt8(KINDS[kind], 0);
  head.writeUInt32BE(index, 1);
  head.writeUIntBE(offset, 5, 6);
  head.writeUInt32BE(body.length, 11);
  return Buffer.concat([head, body]);
}

/** @throws SyncStreamError where the piece does not hold whole, well-formed records. */
export function* decodeSyncPiece(piece: Buffer): Generator<SyncRecord> {
  let at = 0;
  while (at < piece.length) {
    if (at + HEAD_BYTES > piece.length) throw new SyncStreamError('record cut short');
    const index = piece.readUInt32BE(at + 1);
    const offset = piece.readUIntBE(at + 5, 6);
    const start = at + HEAD_BYTES;
    const end = start + piece.readUInt32BE(at + 11);
    if (end > piece.length) throw new SyncStreamError('record cut short');
    if (index >= SYNC_ENTRIES_MAX) throw new SyncStreamError(`file number ${index}`);
    yield recordOf(piece.readUInt8(at), index, offset, piece.subarray(start, end));
    at = end;
  }
}

function recordOf(kind: number, index: number, offset: number, body: Buffer): SyncRecord {
  switch (kind) {
    case KINDS.entry:
      return { kind: 'entry', index, entry: entryOf(body) };
    case KINDS.bytes:
      if (offset + body.length > OFFSET_MAX) throw new SyncStreamError('bytes beyond any file');
      return { kind: 'bytes', index, offset, bytes: body };
    case KINDS.done:
      return { kind: 'done', index, size: offset };
    case KINDS.gone:
      return { kind: 'gone', index, path: body.toString() };
    default:
      throw new SyncStreamError(`record of kind ${kind}`);
  }
}

function entryOf(body: Buffer): unknown {
  try {
    return decodeCbor(body);
  } catch (cause) {
    throw new SyncStreamError('an entry that is no CBOR', { cause });
  }
}
