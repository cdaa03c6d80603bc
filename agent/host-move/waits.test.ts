import { expect, test } from 'vitest';
import { Waits } from './waits.ts';

test('the waits are doubled up to the last, and begin anew after a success', () => {
  const waits = new Waits(100, 300);
  expect(waits.isDue('a', 0)).toBe(true);
  for (const ms of [100, 200, 300, 300]) {
    waits.failed('a', 0);
    expect([waits.isDue('a', ms - 1), waits.isDue('a', ms)]).toEqual([false, true]);
  }
  waits.succeeded('a');
  expect(waits.isDue('a', 0)).toBe(true);
  waits.failed('a', 0);
  expect(waits.isDue('a', 100)).toBe(true);
});

test('what waits, by the start of its key', () => {
  const waits = new Waits(1, 1);
  for (const key of ['a 1', 'b 1', 'a 2']) waits.failed(key);
  expect(waits.after('a ')).toEqual(['1', '2']);
});

test('the oldest of too many is forgotten', () => {
  const waits = new Waits(1_000, 1_000);
  for (let index = 0; index <= 10_000; index++) waits.failed(`${index}`, 0);
  expect([waits.isDue('0', 0), waits.isDue('1', 0)]).toEqual([true, false]);
});
