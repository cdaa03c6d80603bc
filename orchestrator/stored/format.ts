/**
 * The file of a suspended cell, version 1, as bytes; no I/O, no keys. Specification: docs/suspend.md.
 *
 *     0  head, 64 bytes
 *    64  state, 128 bytes: the only part that changes later
 *   192  clear metadata, CBOR
 *        SHA-256 of head and clear metadata, 32 bytes: the associated data of all that is sealed
 *        chunks (sealing.ts)
 *        sealed metadata
 *        tail, 56 bytes
 *
 * Integers are big-endian.
 */
import { createHash } from 'node:crypto';
import { byteReader, concatBytes, equalBytes, u8, u16, u32 } from '../../agent/wire/bytes.ts';

export const HEAD_BYTES = 64;
export const STATE_BYTES = 128;
export const DIGEST_BYTES = 32;
export const TAIL_BYTES = 56;
export const SALT_BYTES = 16;
export const KEY_CHECK_BYTES = 8;
const CLEAR_BYTES_MAX = 1024 * 1024;
/** Room for the 65,536 flows that a snapshot has at most. */
const METADATA_BYTES_MAX = 256 * 1024 * 1024;
const MAGIC = new TextEncoder().encode('OSMIMAGE');
const END_MAGIC = new TextEncoder().encode('OSMIEND1');
export const FORMAT_VERSION = 1;
const HOST_BYTES_MAX = 63;
const STATE_CHECK_BYTES = 8;

/** Where the key comes from: a file of its own, or scrypt (RFC 7914) of a passphrase with these costs. */
export type KeySource =
  | { readonly kind: 'key' }
  | {
      readonly kind: 'passphrase';
      readonly log2N: number;
      readonly r: number;
      readonly p: number;
    };

export type Head = {
  readonly key: KeySource;
  /** Random: no two files have the same keys. */
  readonly salt: Uint8Array;
  /** Of the key: another one is told from damage. */
  readonly keyCheck: Uint8Array;
  readonly clearBytes: number;
};

/**
 * `undecided`: written whole, and its maker has not said that the process was given up for it; `stored`: the file owns the
 * process; `resuming`: a resumption was about to be decided; `resumed`: the process has run since;
 * `discarded`: it was given up; `void`: it was never the owner, as the source's agent has said.
 */
const IMAGE_STATES = {
  undecided: 1,
  stored: 2,
  resuming: 3,
  resumed: 4,
  discarded: 5,
  void: 6,
} as const;
export type ImageState = keyof typeof IMAGE_STATES;

export type State = {
  readonly state: ImageState;
  /** Resumptions that have been begun. */
  readonly attempts: number;
  /** Of the last change, ms since the epoch. */
  readonly at: number;
  /** Where it was to be resumed. */
  readonly host: string;
};

export type Tail = {
  readonly metadataBytes: number;
  readonly chunks: number;
  /** SHA-256 of head, clear metadata, chunks, sealed metadata and the first two fields of the tail. */
  readonly checksum: Uint8Array;
};

/** It is no such file, one of another version, or damaged: `reason` says which. */
export class FormatError extends Error {
  override readonly name = 'FormatError';
  readonly reason: 'not-an-image' | 'version' | 'damaged';

  constructor(reason: FormatError['reason'], message: string) {
    super(message);
    this.reason = reason;
  }
}

/**
 * Head:
 *
 *    8b: "OSMIMAGE"
 *    1b: version, 1
 *    1b: key: 1 a key file, 2 a passphrase
 *    1b: scrypt, log2 of N; 1b: r; 1b: p; zero for a key file
 *    3b: reserved, zero
 *    4b: bytes of clear metadata
 *   16b: salt
 *    8b: key check
 *   20b: reserved, zero
 */
export function encodeHead({ key, salt, keyCheck, clearBytes }: Head): Uint8Array {
  const costs = key.kind === 'key' ? [0, 0, 0] : [key.log2N, key.r, key.p];
  return concatBytes(
    MAGIC,
    u8(FORMAT_VERSION),
    u8(key.kind === 'key' ? 1 : 2),
    Uint8Array.from(costs),
    new Uint8Array(3),
    u32(clearBytes),
    salt,
    keyCheck,
    new Uint8Array(20),
  );
}

/** @throws FormatError */
export function decodeHead(bytes: Uint8Array): Head {
  const reader = byteReader(bytes);
  const magic = reader.take(MAGIC.length);
  if (!equalBytes(magic, MAGIC)) throw new FormatError('not-an-image', 'it is no image of a suspended cell');
  const version = reader.u8();
  if (version !== FORMAT_VERSION)
    throw new FormatError('version', `it has format ${version}, and this is for format ${FORMAT_VERSION}`);
  const kind = reader.u8();
  const [log2N, r, p] = [reader.u8(), reader.u8(), reader.u8()];
  const first = reader.take(3);
  const clearBytes = reader.u32();
  const [salt, keyCheck] = [reader.take(SALT_BYTES), reader.take(KEY_CHECK_BYTES)];
  const reserved = concatBytes(first, reader.take(20));
  if (reader.overrun()) throw damaged('its head is cut short');
  if (reserved.some((byte) => byte !== 0) || (kind !== 1 && kind !== 2) || clearBytes > CLEAR_BYTES_MAX)
    throw damaged('its head');
  const key: KeySource = kind === 1 ? { kind: 'key' } : { kind: 'passphrase', log2N, r, p };
  return { key, salt, keyCheck, clearBytes };
}

/**
 * State:
 *
 *    1b: 1 undecided, 2 stored, 3 resuming, 4 resumed, 5 discarded, 6 void
 *    1b: reserved, zero
 *    2b: bytes of the host's name
 *    4b: resumptions begun
 *    8b: ms since the epoch
 *   63b: host, zero-filled
 *   41b: reserved, zero
 *    8b: first bytes of the SHA-256 of what is before
 */
export function encodeState({ state, attempts, at, host }: State): Uint8Array {
  const name = new TextEncoder().encode(host).subarray(0, HOST_BYTES_MAX);
  const fields = concatBytes(
    u8(IMAGE_STATES[state]),
    u8(0),
    u16(name.length),
    u32(attempts),
    u32(Math.floor(at / 2 ** 32)),
    u32(at % 2 ** 32),
    name,
    new Uint8Array(HOST_BYTES_MAX - name.length + 41),
  );
  return concatBytes(fields, stateCheck(fields));
}

/** @throws FormatError */
export function decodeState(bytes: Uint8Array): State {
  const fields = bytes.subarray(0, STATE_BYTES - STATE_CHECK_BYTES);
  if (!equalBytes(stateCheck(fields), bytes.subarray(STATE_BYTES - STATE_CHECK_BYTES)))
    throw damaged('the part that says what has become of it');
  const reader = byteReader(fields);
  const code = reader.u8();
  reader.u8();
  const length = reader.u16();
  const attempts = reader.u32();
  const at = reader.u32() * 2 ** 32 + reader.u32();
  const host = new TextDecoder().decode(reader.take(HOST_BYTES_MAX).subarray(0, length));
  const state = (Object.keys(IMAGE_STATES) as ImageState[]).find((name) => IMAGE_STATES[name] === code);
  if (state === undefined) throw damaged('the part that says what has become of it');
  return { state, attempts, at, host };
}

function stateCheck(fields: Uint8Array): Uint8Array {
  return new Uint8Array(createHash('sha256').update(fields).digest()).subarray(0, STATE_CHECK_BYTES);
}

/** Tail: 4b bytes of sealed metadata, 4b number of chunks, 8b reserved (zero), 32b checksum, 8b "OSMIEND1". */
export function encodeTail(tail: Tail): Uint8Array {
  return concatBytes(tailFields(tail), tail.checksum, END_MAGIC);
}

/** What of the tail is part of the checksum. */
export function tailFields({ metadataBytes, chunks }: Omit<Tail, 'checksum'>): Uint8Array {
  return concatBytes(u32(metadataBytes), u32(chunks), new Uint8Array(8));
}

/** @throws FormatError */
export function decodeTail(bytes: Uint8Array): Tail {
  const reader = byteReader(bytes);
  const [metadataBytes, chunks] = [reader.u32(), reader.u32()];
  const reserved = reader.take(8);
  const checksum = reader.take(DIGEST_BYTES);
  const magic = reader.take(END_MAGIC.length);
  if (reader.overrun() || !equalBytes(magic, END_MAGIC))
    throw damaged('its end is missing: it was cut short');
  if (reserved.some((byte) => byte !== 0) || metadataBytes > METADATA_BYTES_MAX || chunks === 0)
    throw damaged('its end');
  return { metadataBytes, chunks, checksum };
}

export function headDigest(head: Uint8Array, clear: Uint8Array): Uint8Array {
  return new Uint8Array(createHash('sha256').update(head).update(clear).digest());
}

export function damaged(what: string): FormatError {
  return new FormatError('damaged', `it is damaged: ${what}`);
}
