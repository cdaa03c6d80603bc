/** Thousands of schedules of loss, repetition, delay, reordering and crashes: one owner, no reset, and flows that work. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { type Choice, SimulatedHandoff } from './simulated-handoff.ts';

const SCHEDULES = 2_000;
const STEPS_MAX = 120;
/** With nothing lost any more everything is settled within this. */
const SETTLING_STEPS_MAX = 300;
const SIMULATION_MS_MAX = 180_000;
/** More labels than a MOVE lists, in three parts of a HELLO, or of an ARM. */
const MANY_ENDPOINTS = 300;
const SIZES: readonly { readonly endpoints: number; readonly labelsPerPart?: number }[] = [
  { endpoints: MANY_ENDPOINTS },
  { endpoints: MANY_ENDPOINTS, labelsPerPart: 100 },
];

const schedule = fc.record({
  size: fc
    .nat({ max: 59 })
    .map((draw) => SIZES[draw] ?? (draw % 2 === 0 ? { endpoints: 1 } : { endpoints: 3, labelsPerPart: 1 })),
  picks: fc.array(fc.nat({ max: 0xffff }), { minLength: 20, maxLength: STEPS_MAX, size: 'max' }),
});
const seed = process.env.OSMOSIS_SEED;
const parameters = {
  numRuns: SCHEDULES,
  endOnFailure: true,
  ...(seed === undefined ? {} : { seed: Number(seed) }),
};

/** What goes wrong, or leads nowhere, is less likely than what goes on. */
const RARE = /^(abort|the orchestrator dies|lose|say something|spoof)/;
const OFTEN = 12;

function picked(choices: readonly Choice[], pick: number): Choice | undefined {
  const weighed = choices.flatMap((choice) =>
    RARE.test(choice.name) ? [choice] : Array.from({ length: OFTEN }, () => choice),
  );
  return weighed[pick % weighed.length];
}

/** The network is well again, and nobody begins anything new. */
function settle(handoff: SimulatedHandoff): void {
  for (let step = 0; !handoff.isSettled; step++) {
    const choices = handoff.choices(true);
    const delivery = choices.find(({ name }) => name === 'deliver');
    if (step > SETTLING_STEPS_MAX) throw new Error(`does not settle: ${choices.map(({ name }) => name)}`);
    (delivery ?? choices[step % choices.length])?.take();
  }
}

test('one owner, no reset, and the peer sends to where the process runs', {
  timeout: SIMULATION_MS_MAX,
}, () => {
  let moves = 0;
  let aborts = 0;
  let unasked = 0;
  fc.assert(
    fc.property(schedule, ({ size, picks }) => {
      const handoff = new SimulatedHandoff(size.endpoints, size.labelsPerPart);
      const names: string[] = [];
      try {
        for (const pick of picks) {
          const choice = picked(handoff.choices(), pick);
          names.push(choice?.name ?? 'nothing');
          choice?.take();
        }
        settle(handoff);
      } catch (cause) {
        throw new Error(names.join(', '), { cause });
      }
      expect(handoff.owner).toEqual([handoff.seenAt]);
      moves += handoff.moves;
      aborts += handoff.aborts;
      unasked += handoff.unasked;
      const before = handoff.peerText;
      handoff.replay();
      expect(handoff.peerText).toBe(before);
    }),
    parameters,
  );
  // The schedules reach what they are for.
  expect(moves).toBeGreaterThan(SCHEDULES / 4);
  expect(aborts).toBeGreaterThan(SCHEDULES / 4);
  expect(unasked).toBeGreaterThan(SCHEDULES / 400);
});
