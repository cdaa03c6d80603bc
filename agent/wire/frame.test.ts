import fc from 'fast-check';
import { expect, test } from 'vitest';
import {
  decodeMessage,
  encodeFrame,
  encodeMessage,
  FRAME_BYTES_MAX,
  FRAME_KINDS,
  type Frame,
  FrameDecoder,
  FrameError,
  type FrameKind,
} from './frame.ts';

const KINDS = Object.keys(FRAME_KINDS) as FrameKind[];

/** The frames of `chunks`, bodies as hex. */
function framesOf(chunks: readonly Buffer[]): { kind: FrameKind; body: string }[] {
  const decoder = new FrameDecoder();
  const frames = chunks.flatMap((chunk) => [...decoder.push(chunk)]);
  expect(decoder.isEmpty).toBe(true);
  return frames.map(({ kind, body }) => ({ kind, body: Buffer.from(body).toString('hex') }));
}

const refused = (bytes: number[]) => () => [...new FrameDecoder().push(Buffer.from(bytes))];

test.each([
  ['request', { id: 1, method: 'run' }, '0000001101a262696401666d6574686f646372756e'],
  ['cancel', { id: 258 }, '0000000804a1626964190102'],
  ['response', { id: 1, result: {} }, '0000000e02a26269640166726573756c74a0'],
  ['end', { sha256: Uint8Array.of(1, 2) }, '0000000c06a166736861323536420102'],
] as const)('golden bytes of %s', (kind, message, hex) => {
  expect(encodeMessage(kind, message).toString('hex')).toBe(hex);
});

test('golden bytes of data, which is raw, and of an empty body', () => {
  expect(encodeFrame('data', Uint8Array.of(0xca, 0xfe)).toString('hex')).toBe('0000000305cafe');
  expect(encodeFrame('event', new Uint8Array()).toString('hex')).toBe('0000000103');
});

test('cut in two at every byte, the frames are the same', () => {
  const stream = Buffer.concat([
    encodeMessage('request', { id: 1, method: 'run', params: { argv: ['a', 'b'] } }),
    encodeFrame('data', Uint8Array.of(1, 2, 3)),
    encodeMessage('end', { bytes: 3 }),
  ]);
  const whole = framesOf([stream]);
  expect(whole.map(({ kind }) => kind)).toEqual(['request', 'data', 'end']);
  for (let at = 0; at <= stream.length; at++) {
    expect(framesOf([stream.subarray(0, at), stream.subarray(at)])).toEqual(whole);
  }
  expect(framesOf([...stream].map((byte) => Buffer.of(byte)))).toEqual(whole);
});

test('any frames in any chunks come out as they went in', () => {
  const frame = fc.record({ kind: fc.constantFrom(...KINDS), body: fc.uint8Array({ maxLength: 40 }) });
  fc.assert(
    fc.property(fc.array(frame), fc.array(fc.nat({ max: 60 })), (frames, cuts) => {
      const stream = Buffer.concat(frames.map(({ kind, body }) => encodeFrame(kind, body)));
      const chunks: Buffer[] = [];
      let at = 0;
      for (const cut of cuts) {
        chunks.push(stream.subarray(at, at + cut));
        at = Math.min(at + cut, stream.length);
      }
      chunks.push(stream.subarray(at));
      expect(framesOf(chunks)).toEqual(
        frames.map(({ kind, body }) => ({ kind, body: Buffer.from(body).toString('hex') })),
      );
    }),
  );
});

test('a frame that is not whole yet is held', () => {
  const decoder = new FrameDecoder();
  expect([...decoder.push(Buffer.of(0, 0, 0))]).toEqual([]);
  expect(decoder.isEmpty).toBe(false);
});

test('the largest frame passes; one byte more is refused at either end', () => {
  const largest = encodeFrame('data', new Uint8Array(FRAME_BYTES_MAX - 1));
  expect([...new FrameDecoder().push(largest)][0]?.body.length).toBe(FRAME_BYTES_MAX - 1);
  expect(() => encodeFrame('data', new Uint8Array(FRAME_BYTES_MAX))).toThrow(FrameError);
  expect(refused([2, 0, 0, 1])).toThrow(FrameError);
});

test.each([
  ['length 0', [0, 0, 0, 0]],
  ['length 2^32-1, before its bytes come', [255, 255, 255, 255]],
  ['kind 0', [0, 0, 0, 1, 0]],
  ['kind 7', [0, 0, 0, 1, 7]],
])('%s is refused', (_what, bytes) => {
  expect(refused(bytes)).toThrow(FrameError);
});

test('messages survive; undefined members are left out', () => {
  const [frame] = new FrameDecoder().push(encodeMessage('event', { a: undefined, b: [1, 'x', null] }));
  expect(frame === undefined ? undefined : decodeMessage(frame)).toEqual({ b: [1, 'x', null] });
});

test.each(['', 'ff', 'a1', '0101'])('a body of %j is no message', (hex) => {
  const frame: Frame = { kind: 'request', body: Buffer.from(hex, 'hex') };
  expect(() => decodeMessage(frame)).toThrow(FrameError);
});

test('whatever the bytes, only FrameError is thrown', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 64 }), (bytes) => {
      try {
        for (const frame of new FrameDecoder().push(Buffer.from(bytes))) decodeMessage(frame);
      } catch (error) {
        expect(error).toBeInstanceOf(FrameError);
      }
    }),
  );
});
