import { PassThrough } from 'node:stream';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { LIVENESS_MS_MAX, watchLiveness } from './liveness.ts';

beforeEach(() => void vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval'] }));
afterEach(() => void vi.useRealTimers());

it('tells of a silent host within its bound, and not of one that speaks', () => {
  const stream = new PassThrough();
  const onDead = vi.fn();
  const stop = watchLiveness(stream, onDead);
  for (let second = 0; second < 60; second += 1) {
    vi.advanceTimersByTime(1_000);
    if (second % 5 === 0) stream.emit('data', Buffer.of(0));
  }
  expect(onDead).not.toHaveBeenCalled();
  vi.advanceTimersByTime(LIVENESS_MS_MAX);
  expect(onDead).toHaveBeenCalled();
  stop();
});
