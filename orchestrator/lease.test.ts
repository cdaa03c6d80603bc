import { expect, test } from 'vitest';
import { leaseText, parseLease } from './lease.ts';

test.each([
  ['90s', 90],
  ['30m', 1_800],
  ['1h', 3_600],
  ['24h', 86_400],
  [true as const, 3_600],
])('%s is %i seconds', (text, seconds) => {
  expect(parseLease(text, '--lease')).toBe(seconds);
});

test.each(['', '1', 'h', '1d', '-1h', '1.5h', '2s', '25h', '0h', '1h '])('%j is no lease', (text) => {
  expect(() => parseLease(text, '--lease')).toThrow(expect.objectContaining({ code: 'USAGE' }));
});

test('a lease is written in the largest unit that fits', () => {
  expect([3_600, 1_800, 90, 86_400].map(leaseText)).toEqual(['1h', '30m', '90s', '24h']);
});
