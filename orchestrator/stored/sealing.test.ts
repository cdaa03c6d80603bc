/** What seals a stored image: golden bytes, and that nothing can be changed, moved, left out or cut off. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { FormatError } from './format.ts';
import {
  CHUNK_HEAD_BYTES,
  ChunkOpener,
  ChunkSealer,
  chunkHead,
  keysOf,
  openMetadata,
  sealMetadata,
  stretch,
} from './sealing.ts';

const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex');
const SALT = new Uint8Array(16).fill(1);
const KEYS = keysOf(new Uint8Array(32).fill(2), SALT);
const DIGEST = new Uint8Array(32).fill(3);

function sealed(pieces: readonly Uint8Array[]): Uint8Array[] {
  const sealer = new ChunkSealer(KEYS, DIGEST);
  return pieces.map((piece, index) => sealer.seal(piece, index === pieces.length - 1));
}

/** Up to the last chunk. @throws FormatError */
function opened(chunks: readonly Uint8Array[], keys = KEYS, digest = DIGEST): Uint8Array[] {
  const opener = new ChunkOpener(keys, digest);
  const pieces: Uint8Array[] = [];
  for (const chunk of chunks) {
    const head = chunk.subarray(0, CHUNK_HEAD_BYTES);
    chunkHead(head);
    const { plaintext, last } = opener.open(head, chunk.subarray(CHUNK_HEAD_BYTES));
    pieces.push(Uint8Array.from(plaintext));
    if (last) return pieces;
  }
  throw new FormatError('damaged', 'no last one');
}

describe('golden bytes', () => {
  it('of the keys', () => {
    expect([KEYS.check, KEYS.chunks, KEYS.metadata].map(hex)).toMatchInlineSnapshot(`
      [
        "eefb741e8a7cc8d1",
        "24f0e726f2a5f53aff0a336b6cb5946445fa4339083fdca5d908f6bd311d34c3",
        "aef184f1bf52caaaf0af077b35b4269ac58b458a0730c60c7b976336d06a971b",
      ]
    `);
    expect(
      hex(stretch('correct horse', SALT, { kind: 'passphrase', log2N: 4, r: 8, p: 1 })),
    ).toMatchInlineSnapshot(`"018ab73c9bb9e8e243527292796ea206a7b6f0ac89127beebebee7432d5dd975"`);
  });

  it('of two chunks and the metadata', () => {
    const chunks = sealed([new TextEncoder().encode('piece'), new TextEncoder().encode('end')]);
    expect(chunks.map(hex)).toMatchInlineSnapshot(`
      [
        "00000005dd61746ab369cfa7882b212ed599ff5f9ecdd99496",
        "800000030b6be571a5850c793b540585771d388683a9b5",
      ]
    `);
    expect(hex(sealMetadata(KEYS, DIGEST, new TextEncoder().encode('metadata'), 2))).toMatchInlineSnapshot(
      `"2554f6c1134c9d9f51217e2883007bdab160462824a5208f"`,
    );
  });
});

const PIECES = fc.array(fc.uint8Array({ maxLength: 100 }), { minLength: 1, maxLength: 6 });

describe('chunks', () => {
  it('open again, in their order', () => {
    fc.assert(
      fc.property(PIECES, (pieces) => {
        expect(opened(sealed(pieces))).toEqual(pieces);
      }),
    );
  });

  it('do not open with a bit changed', () => {
    fc.assert(
      fc.property(PIECES, fc.nat(), fc.nat(), (pieces, which, bit) => {
        const chunks = sealed(pieces);
        const chunk = chunks[which % chunks.length] ?? new Uint8Array();
        const at = bit % (chunk.length * 8);
        chunk[at >> 3] = (chunk[at >> 3] ?? 0) ^ (1 << (at & 7));
        expect(() => opened(chunks)).toThrow(FormatError);
      }),
    );
  });

  it('do not open where one is missing, moved, doubled, or the last ones are cut off', () => {
    const chunks = sealed(['a', 'b', 'c'].map((text) => new TextEncoder().encode(text)));
    const [a, b, c] = chunks as [Uint8Array, Uint8Array, Uint8Array];
    for (const altered of [[b, c], [a, c], [a, b], [b, a, c], [a, a, b, c], [c], []])
      expect(() => opened(altered)).toThrow(FormatError);
  });

  it('do not open with another key, or under another head', () => {
    const chunks = sealed([new Uint8Array(10)]);
    expect(() => opened(chunks, keysOf(new Uint8Array(32).fill(2), new Uint8Array(16)))).toThrow(FormatError);
    expect(() => opened(chunks, KEYS, new Uint8Array(32))).toThrow(FormatError);
  });
});

describe('metadata', () => {
  it('open only as they were sealed', () => {
    const box = sealMetadata(KEYS, DIGEST, Uint8Array.of(1, 2, 3), 5);
    expect([...openMetadata(KEYS, DIGEST, box, 5)]).toEqual([1, 2, 3]);
    expect(() => openMetadata(KEYS, DIGEST, box, 4)).toThrow(FormatError);
    expect(() => openMetadata(KEYS, DIGEST, box.subarray(1), 5)).toThrow(FormatError);
    expect(() => openMetadata(KEYS, DIGEST, new Uint8Array(3), 5)).toThrow(FormatError);
  });
});

it('costs that no passphrase has are refused before anything is computed', () => {
  for (const costs of [
    { log2N: 31, r: 8, p: 1 },
    { log2N: 24, r: 255, p: 1 },
    { log2N: 17, r: 8, p: 200 },
    { log2N: 0, r: 8, p: 1 },
  ])
    expect(() => stretch('x', SALT, { kind: 'passphrase', ...costs })).toThrow(FormatError);
});
