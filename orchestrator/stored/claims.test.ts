import fc from 'fast-check';
import { expect, it } from 'vitest';
import { claimAbove, MOVE_ABOVE_HOLD } from './claims.ts';

it('each attempt has epochs of its own for HOLD, ARM and MOVE, above those before it', () => {
  const attempt = fc.nat(100_000);
  fc.assert(
    fc.property(attempt, fc.nat(), fc.nat(), (attempts, first, second) => {
      const draw = (random: number) => (max: number) => random % max;
      const [one, next] = [claimAbove(attempts, draw(first)), claimAbove(attempts + 1, draw(second))];
      expect(one).toBeGreaterThan(0);
      expect(next).toBeGreaterThan(one + MOVE_ABOVE_HOLD);
    }),
  );
});

it('two copies seldom have the same, and never the one the other one`s next ones', () => {
  const drawn = new Set(Array.from({ length: 10_000 }, () => claimAbove(0)));
  expect(drawn.size).toBe(85);
  for (const above of drawn)
    expect([drawn.has(above + 1), drawn.has(above + MOVE_ABOVE_HOLD)]).toEqual([false, false]);
});
