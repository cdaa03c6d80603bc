import fc from 'fast-check';
import { expect, test } from 'vitest';
import { byteReader } from './bytes.ts';
import { decodeFollow, encodeFollow, FOLLOW_ROWS_MAX, LEASE_SECONDS_MAX } from './h2o-follow.ts';
import { DROP_REASONS, type Label } from './h2o-layout.ts';

const label = (port: number): Label => ({
  protocol: 'tcp',
  virtual: { address: '10.77.1.2', port },
  wire: { address: '10.77.2.2', port: 40_000 + port },
});
const good = encodeFollow({
  leaseSeconds: 3_600,
  labels: [label(1), label(2)],
  ended: [{ protocol: 'udp', port: 52_000 }],
});
const decoded = (bytes: Uint8Array) => decodeFollow(byteReader(bytes));

test('what has ended is of the peer or of the cell', () => {
  const ended = [
    { protocol: 'udp' as const, port: 40_000, ofCell: true as const },
    { protocol: 'tcp' as const, port: 52_000 },
  ];
  expect(decoded(encodeFollow({ leaseSeconds: 0, labels: [], ended }))).toMatchObject({ ended });
});

test('the end of a follow has no rows, and a lease has some', () => {
  expect(decoded(encodeFollow({ leaseSeconds: 0, labels: [], ended: [] }))).toEqual({
    leaseSeconds: 0,
    labels: [],
    ended: [],
  });
  expect(() => encodeFollow({ leaseSeconds: 0, labels: [label(1)], ended: [] })).toThrow();
  expect(() => encodeFollow({ leaseSeconds: 1, labels: [], ended: [] })).toThrow();
  const many = Array.from({ length: FOLLOW_ROWS_MAX + 1 }, (_, index) => label(index + 1));
  expect(() => encodeFollow({ leaseSeconds: 1, labels: many, ended: [] })).toThrow();
});

test.each([
  ['a lease that is too long', good.with(0, 1), 'value'],
  ['a lease without rows', good.slice(0, 8).with(4, 0).with(7, 0), 'count'],
  ['rows without a lease', good.with(2, 0).with(3, 0), 'count'],
  ['a reserved byte', good.with(5, 1), 'reserved'],
  ["nobody's port has ended", good.with(85, 2), 'value'],
  ['port 0 has ended', good.with(86, 0).with(87, 0), 'value'],
  ['a reserved byte of a row', good.with(9, 1), 'reserved'],
  ['another protocol', good.with(8, 1), 'value'],
  ['port 0', good.with(10, 0).with(11, 0), 'value'],
  ['label 0', good.with(12, 0).with(13, 0), 'value'],
  ['IPv4 that becomes IPv6', good.with(30, 1), 'value'],
  ['half a row', good.slice(0, -1), 'too-short'],
  ['a byte more', Uint8Array.from([...good, 0]), 'trailing'],
])('dropped: %s', (_, bytes, drop) => {
  expect(decoded(bytes)).toEqual({ drop });
});

test('any bytes are a follow within its bounds, or a known drop', () => {
  fc.assert(
    fc.property(
      fc.oneof(
        fc.uint8Array({ maxLength: 200 }),
        fc.tuple(fc.nat(good.length - 1), fc.nat(255)).map(([at, value]) => good.with(at, value)),
      ),
      (bytes) => {
        const follow = decoded(bytes);
        if ('drop' in follow) {
          expect(DROP_REASONS).toHaveProperty([follow.drop]);
          return;
        }
        expect(follow.leaseSeconds).toBeLessThanOrEqual(LEASE_SECONDS_MAX);
        expect(encodeFollow(follow)).toEqual(bytes);
      },
    ),
    { numRuns: 2000 },
  );
});
