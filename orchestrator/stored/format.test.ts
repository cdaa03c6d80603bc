/** The file of a suspended cell as bytes: golden ones, and any. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  decodeHead,
  decodeState,
  decodeTail,
  encodeHead,
  encodeState,
  encodeTail,
  FormatError,
  HEAD_BYTES,
  type Head,
  STATE_BYTES,
  type State,
  TAIL_BYTES,
  type Tail,
} from './format.ts';

const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex');
const bytesOf = (length: number) => fc.uint8Array({ minLength: length, maxLength: length });

const HEAD: Head = {
  key: { kind: 'passphrase', log2N: 17, r: 8, p: 1 },
  salt: new Uint8Array(16).fill(0xaa),
  keyCheck: new Uint8Array(8).fill(0xbb),
  clearBytes: 300,
};
const STATE: State = { state: 'resumed', attempts: 3, at: 1_795_412_465_031, host: 'beta' };
const TAIL: Tail = { metadataBytes: 1_000, chunks: 7, checksum: new Uint8Array(32).fill(0xcc) };

describe('golden bytes', () => {
  it('of the head', () => {
    expect(hex(encodeHead(HEAD))).toBe(
      `4f534d494d4147450102110801000000${'0000012c'}${'aa'.repeat(16)}${'bb'.repeat(8)}${'00'.repeat(20)}`,
    );
  });

  it('of the state', () => {
    expect(hex(encodeState(STATE))).toBe(
      `0400000400000003000001a206ec1587${Buffer.from('beta').toString('hex')}${'00'.repeat(100)}3fd703ad05f90784`,
    );
  });

  it('of the tail', () => {
    expect(hex(encodeTail(TAIL))).toBe(`000003e800000007${'00'.repeat(8)}${'cc'.repeat(32)}4f534d49454e4431`);
  });
});

describe('whatever is written', () => {
  it('is read again', () => {
    const costs = fc.record({
      kind: fc.constant('passphrase' as const),
      log2N: fc.integer({ min: 1, max: 30 }),
      r: fc.integer({ min: 1, max: 255 }),
      p: fc.integer({ min: 1, max: 255 }),
    });
    const head = fc.record({
      key: fc.oneof(fc.constant({ kind: 'key' as const }), costs),
      salt: bytesOf(16),
      keyCheck: bytesOf(8),
      clearBytes: fc.integer({ min: 0, max: 1024 * 1024 }),
    });
    const state = fc.record({
      state: fc.constantFrom('undecided', 'stored', 'resuming', 'resumed', 'discarded', 'void'),
      attempts: fc.integer({ min: 0, max: 2 ** 32 - 1 }),
      at: fc.integer({ min: 0, max: Number.MAX_SAFE_INTEGER }),
      host: fc.stringMatching(/^[a-z0-9.-]{0,63}$/),
    });
    const tail = fc.record({
      metadataBytes: fc.integer({ min: 0, max: 2 ** 28 }),
      chunks: fc.integer({ min: 1, max: 2 ** 32 - 1 }),
      checksum: bytesOf(32),
    });
    fc.assert(
      fc.property(head, state, tail, (aHead, aState, aTail) => {
        expect(decodeHead(encodeHead(aHead))).toEqual(aHead);
        expect(decodeState(encodeState(aState))).toEqual(aState);
        expect(decodeTail(encodeTail(aTail))).toEqual(aTail);
        expect(encodeHead(aHead)).toHaveLength(HEAD_BYTES);
        expect(encodeState(aState)).toHaveLength(STATE_BYTES);
        expect(encodeTail(aTail)).toHaveLength(TAIL_BYTES);
      }),
    );
  });
});

describe('whatever is read', () => {
  it('is refused by FormatError, or it is what was written', () => {
    const reads = [
      (bytes: Uint8Array) => encodeHead(decodeHead(bytes)),
      (bytes: Uint8Array) => encodeState(decodeState(bytes)),
      (bytes: Uint8Array) => encodeTail(decodeTail(bytes)),
    ];
    const written = [encodeHead(HEAD), encodeState(STATE), encodeTail(TAIL)];
    fc.assert(
      fc.property(fc.nat(2), fc.nat(127), fc.nat(7), (which, at, bit) => {
        const bytes = Uint8Array.from(written[which] ?? []);
        const place = at % bytes.length;
        bytes[place] = (bytes[place] ?? 0) ^ (1 << bit);
        try {
          expect(reads[which]?.(bytes)).toEqual(bytes);
        } catch (error) {
          expect(error).toBeInstanceOf(FormatError);
        }
      }),
      { numRuns: 500 },
    );
    fc.assert(
      fc.property(fc.nat(2), fc.uint8Array({ maxLength: 200 }), (which, bytes) => {
        try {
          reads[which]?.(bytes);
        } catch (error) {
          expect(error).toBeInstanceOf(FormatError);
        }
      }),
    );
  });

  it('of another version says so, whatever follows', () => {
    const bytes = encodeHead(HEAD);
    bytes[8] = 2;
    expect(() => decodeHead(bytes)).toThrow(expect.objectContaining({ reason: 'version' }));
    expect(() => decodeHead(new Uint8Array(64))).toThrow(expect.objectContaining({ reason: 'not-an-image' }));
  });

  it('every flipped bit of the state is seen', () => {
    const bytes = encodeState(STATE);
    for (let bit = 0; bit < bytes.length * 8; bit++) {
      const flipped = Uint8Array.from(bytes);
      flipped[bit >> 3] = (flipped[bit >> 3] ?? 0) ^ (1 << (bit & 7));
      expect(() => decodeState(flipped)).toThrow(FormatError);
    }
  });
});
