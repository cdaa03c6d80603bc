import { randomBytes } from 'node:crypto';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { packPiece, unpackPiece } from './compression.ts';
import { IMAGE_PIECE_BYTES, ImageError } from './image.ts';

test('what is packed comes out again', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 5_000 }), (bytes) => {
      expect(unpackPiece(packPiece(Buffer.from(bytes)))).toEqual(Buffer.from(bytes));
    }),
  );
});

test('memory gets smaller, noise stays as it is', () => {
  expect(packPiece(Buffer.alloc(IMAGE_PIECE_BYTES)).length).toBeLessThan(1_000);
  expect(packPiece(randomBytes(IMAGE_PIECE_BYTES)).length).toBe(IMAGE_PIECE_BYTES + 1);
});

test('anything else is an ImageError: another form, noise, and a piece that would not end', () => {
  const bomb = packPiece(Buffer.alloc(64 * 1024 * 1024));
  for (const body of [Buffer.alloc(0), Buffer.of(2, 1), Buffer.of(1, 9, 9, 9), bomb]) {
    expect(() => unpackPiece(body)).toThrow(ImageError);
  }
});
