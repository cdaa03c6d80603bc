import { afterEach, expect, test, vi } from 'vitest';
import { SOURCES_MAX, SourceBudgets } from './source-budgets.ts';

afterEach(() => {
  vi.useRealTimers();
});

test('whoever floods uses up its own budget only', () => {
  vi.useFakeTimers();
  const budgets = new SourceBudgets(10, 3);
  const taken = (address: string, tries: number) =>
    Array.from({ length: tries }, () => budgets.take(address)).filter(Boolean).length;
  expect(taken('10.77.5.2', 1_000)).toBe(3);
  expect(taken('10.77.1.2', 3)).toBe(3);
  vi.advanceTimersByTime(200);
  expect(taken('10.77.5.2', 1_000)).toBe(2);
});

test('so many sources are remembered, those that were silent for longest forgotten first', () => {
  const budgets = new SourceBudgets(1, 1);
  expect(budgets.take('flooder')).toBe(true);
  for (let source = 0; source < 5 * SOURCES_MAX; source++) {
    budgets.take(`10.0.${source >> 8}.${source & 255}`);
    expect(budgets.take('flooder')).toBe(false);
  }
  expect(budgets.sources).toBe(SOURCES_MAX);
});
