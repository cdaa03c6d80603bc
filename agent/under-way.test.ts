import { expect, test, vi } from 'vitest';
import { UnderWay } from './under-way.ts';

test('whoever comes while a step is under way waits for that one, and whoever comes after it begins anew', async () => {
  const underWay = new UnderWay<number>();
  const { promise, resolve } = Promise.withResolvers<number>();
  const step = vi.fn(() => promise);
  const both = Promise.all([underWay.join('a', step), underWay.join('a', step)]);
  expect(await underWay.join('b', async () => 2)).toBe(2);
  resolve(1);
  expect([await both, step.mock.calls.length]).toEqual([[1, 1], 1]);
  expect(await underWay.join('a', async () => 3)).toBe(3);
});

test('a step that fails fails for all, and may be tried again', async () => {
  const underWay = new UnderWay<number>();
  const failing = async () => {
    throw new Error('not now');
  };
  const both = await Promise.allSettled([underWay.join('a', failing), underWay.join('a', failing)]);
  expect(both.map(({ status }) => status)).toEqual(['rejected', 'rejected']);
  expect(await underWay.join('a', async () => 1)).toBe(1);
});
