import { afterEach, expect, test, vi } from 'vitest';
import { TokenBucket } from './token-bucket.ts';

afterEach(() => {
  vi.useRealTimers();
});

test('a burst goes through, then so many a second, never more than a burst', () => {
  vi.useFakeTimers();
  const bucket = new TokenBucket(10, 3);
  const taken = (tries: number) => Array.from({ length: tries }, () => bucket.take()).filter(Boolean).length;
  expect(taken(5)).toBe(3);
  vi.advanceTimersByTime(200);
  expect(taken(5)).toBe(2);
  vi.advanceTimersByTime(60_000);
  expect(taken(9)).toBe(3);
});
