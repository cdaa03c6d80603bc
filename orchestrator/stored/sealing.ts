/**
 * How a stored image is sealed: ChaCha20-Poly1305 (RFC 8439) in chunks, each bound to its place and the last one marked
 * (STREAM, https://eprint.iacr.org/2015/189), so that nothing can be left out, added, moved or cut off. Pure.
 *
 *   key material = 32 bytes of a key file, or scrypt(passphrase, salt)
 *   check, chunks, metadata = HKDF-SHA256(key material, salt, "osmosis image 1 check" | "… chunks" | "… metadata")
 *
 * A chunk:
 *
 *    4b: highest bit: it is the last one; the others: bytes of plaintext, at most CHUNK_BYTES_MAX
 *        ciphertext
 *   16b: tag
 *
 * Nonce, 12 bytes: zero (7) ‖ number of the chunk from 0 (4) ‖ 1 for the last one, else 0. Associated data: the digest of
 * head and clear metadata, and the chunk's first 4 bytes. Of the sealed metadata: nonce zero, associated data the digest and the
 * fields of the tail. The salt is drawn for each file, so no key ever seals two things under one nonce.
 */
import { hkdfSync, scryptSync } from 'node:crypto';
import { concatBytes, u8, u32 } from '../../agent/wire/bytes.ts';
import { openBytes, SEAL_BYTES, sealBytes } from '../../agent/wire/seal.ts';
import { damaged, KEY_CHECK_BYTES, type KeySource, tailFields } from './format.ts';

export const KEY_BYTES = 32;
/** A piece of an image, packed, has room; agent/wire/compression.ts. */
const CHUNK_BYTES_MAX = 2 * 1024 * 1024;
export const CHUNK_HEAD_BYTES = 4;
const LAST = 2 ** 31;
/** 128 MiB and about half a second: RFC 9106 and OWASP ask for no less. */
export const SCRYPT = { kind: 'passphrase', log2N: 17, r: 8, p: 1 } as const satisfies KeySource;
/** A file may ask for this much at most: what it says of its costs is not to be believed. */
const SCRYPT_BYTES_MAX = 1024 ** 3;

export type ImageKeys = {
  readonly check: Uint8Array;
  readonly chunks: Uint8Array;
  readonly metadata: Uint8Array;
};

export function keysOf(material: Uint8Array, salt: Uint8Array): ImageKeys {
  const key = (info: string, bytes = KEY_BYTES) =>
    new Uint8Array(hkdfSync('sha256', material, salt, `osmosis image 1 ${info}`, bytes));
  return { check: key('check', KEY_CHECK_BYTES), chunks: key('chunks'), metadata: key('metadata') };
}

/** Key material of a passphrase. @throws FormatError where the costs are none that anybody would choose. */
export function stretch(
  passphrase: string,
  salt: Uint8Array,
  { log2N, r, p }: KeySource & { kind: 'passphrase' },
): Uint8Array {
  const bytes = 128 * 2 ** log2N * r;
  if (log2N < 1 || log2N > 30 || r < 1 || p < 1 || p > 16 || bytes > SCRYPT_BYTES_MAX)
    throw damaged('the costs of its passphrase');
  const N = 2 ** log2N;
  return new Uint8Array(
    scryptSync(passphrase.normalize('NFC'), salt, KEY_BYTES, { N, r, p, maxmem: 2 * bytes }),
  );
}

/** In order; `last` is the last one. */
export class ChunkSealer {
  readonly #key: Uint8Array;
  readonly #digest: Uint8Array;
  chunks = 0;

  constructor(keys: ImageKeys, digest: Uint8Array) {
    this.#key = keys.chunks;
    this.#digest = digest;
  }

  seal(plaintext: Uint8Array, last: boolean): Uint8Array {
    if (plaintext.length > CHUNK_BYTES_MAX) throw new RangeError(`a chunk of ${plaintext.length} bytes`);
    const head = u32(plaintext.length + (last ? LAST : 0));
    const aad = concatBytes(this.#digest, head);
    return concatBytes(head, sealBytes(this.#key, chunkNonce(this.chunks++, last), aad, plaintext));
  }
}

export class ChunkOpener {
  readonly #key: Uint8Array;
  readonly #digest: Uint8Array;
  #chunks = 0;

  constructor(keys: ImageKeys, digest: Uint8Array) {
    this.#key = keys.chunks;
    this.#digest = digest;
  }

  /** @throws FormatError where it is not the chunk that belongs here. */
  open(head: Uint8Array, box: Uint8Array): { readonly plaintext: Uint8Array; readonly last: boolean } {
    const { last } = chunkHead(head);
    const number = this.#chunks++;
    const plaintext = openBytes(this.#key, chunkNonce(number, last), concatBytes(this.#digest, head), box);
    if (plaintext === undefined) throw damaged(`chunk ${number} of its data does not open`);
    return { plaintext, last };
  }
}

/** @throws FormatError where no chunk begins so. */
export function chunkHead(head: Uint8Array): { readonly boxBytes: number; readonly last: boolean } {
  const value = new DataView(head.buffer, head.byteOffset, head.length).getUint32(0);
  const last = value >= LAST;
  const length = last ? value - LAST : value;
  if (length > CHUNK_BYTES_MAX) throw damaged('the length of a chunk');
  return { boxBytes: length + SEAL_BYTES, last };
}

function chunkNonce(number: number, last: boolean): Uint8Array {
  return concatBytes(new Uint8Array(7), u32(number), u8(last ? 1 : 0));
}

export function sealMetadata(
  keys: ImageKeys,
  digest: Uint8Array,
  plaintext: Uint8Array,
  chunks: number,
): Uint8Array {
  return sealBytes(
    keys.metadata,
    new Uint8Array(12),
    metadataAad(digest, plaintext.length + SEAL_BYTES, chunks),
    plaintext,
  );
}

/** @throws FormatError */
export function openMetadata(
  keys: ImageKeys,
  digest: Uint8Array,
  box: Uint8Array,
  chunks: number,
): Uint8Array {
  const plaintext = openBytes(
    keys.metadata,
    new Uint8Array(12),
    metadataAad(digest, box.length, chunks),
    box,
  );
  if (plaintext === undefined) throw damaged('its metadata do not open');
  return plaintext;
}

function metadataAad(digest: Uint8Array, metadataBytes: number, chunks: number): Uint8Array {
  return concatBytes(digest, tailFields({ metadataBytes, chunks }));
}
