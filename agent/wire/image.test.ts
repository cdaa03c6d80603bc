import fc from 'fast-check';
import { expect, test } from 'vitest';
import {
  decodeImagePiece,
  encodeImageRecord,
  IMAGE_NAME_BYTES_MAX,
  ImageError,
  ImageTally,
  sameImage,
} from './image.ts';

const record = (name: string, offset = 0, bytes = Uint8Array.of(1, 2, 3)) =>
  encodeImageRecord({ name, offset, bytes });

test('golden bytes of one record', () => {
  expect(record('pages-1.img', 0x0102_0304_0506).toString('hex')).toBe(
    `0b${Buffer.from('pages-1.img').toString('hex')}01020304050600000003010203`,
  );
});

test('any records in one piece come out as they went in', () => {
  const one = fc.record({
    name: fc.stringMatching(/^[a-z0-9_-]{1,40}\.img$/),
    offset: fc.nat({ max: 2 ** 47 }),
    bytes: fc.uint8Array({ maxLength: 50 }),
  });
  fc.assert(
    fc.property(fc.array(one), (records) => {
      const piece = Buffer.concat(records.map(encodeImageRecord));
      const got = [...decodeImagePiece(piece)];
      expect(got.map((each) => ({ ...each, bytes: Uint8Array.from(each.bytes) }))).toEqual(records);
    }),
  );
});

test('a piece cut anywhere inside a record is refused', () => {
  const piece = Buffer.concat([record('a.img'), record('core-1.img')]);
  const whole = new Set([0, record('a.img').length, piece.length]);
  for (let at = 0; at <= piece.length; at++) {
    const decode = () => [...decodeImagePiece(piece.subarray(0, at))];
    if (whole.has(at)) decode();
    else expect(decode).toThrow(ImageError);
  }
});

test.each(['', '.', '..', 'a/b', '/etc/passwd', '../x', 'a\0b', 'x'.repeat(IMAGE_NAME_BYTES_MAX + 1)])(
  '%j is not a file name at either end',
  (name) => {
    expect(() => record(name)).toThrow(ImageError);
    const bytes = Buffer.from(name).subarray(0, 255);
    const piece = Buffer.concat([Buffer.of(bytes.length), bytes, Buffer.alloc(10)]);
    if (name.length <= 255) expect(() => [...decodeImagePiece(piece)]).toThrow(ImageError);
  },
);

test('whatever the bytes, only ImageError is thrown', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 60 }), (bytes) => {
      try {
        expect([...decodeImagePiece(Buffer.from(bytes))].length).toBeLessThanOrEqual(bytes.length);
      } catch (error) {
        expect(error).toBeInstanceOf(ImageError);
      }
    }),
  );
});

test('the tally counts files once, and tells order, bytes and files apart', () => {
  const tallied = (...pieces: [Buffer, string[]][]) => {
    const tally = new ImageTally();
    for (const [piece, names] of pieces) tally.add(piece, names);
    return tally.finish();
  };
  const [a, b] = [record('a.img'), record('b.img')];
  const both = tallied([a, ['a.img']], [b, ['b.img', 'a.img']]);
  expect(both).toMatchObject({ bytes: a.length + b.length, files: 2 });
  expect(sameImage(both, tallied([Buffer.concat([a, b]), ['b.img', 'a.img']]))).toBe(true);
  expect(sameImage(both, tallied([b, ['b.img']], [a, ['a.img']]))).toBe(false);
  expect(sameImage(both, { ...both, files: 3 })).toBe(false);
  expect(sameImage(both, { ...both, bytes: both.bytes - 1 })).toBe(false);
});
