import { expect, test } from 'vitest';
import { isCommitted, PHASE_TABLE, PHASES, type Phase } from './phases.ts';

test('the phases follow one another in their order, to the end', () => {
  const walk: (Phase | 'done')[] = ['plan'];
  for (let at = walk[0]; at !== undefined && at !== 'done'; at = walk.at(-1)) walk.push(PHASE_TABLE[at].next);
  expect(walk).toEqual([...PHASES, 'done']);
});

test('only plan refuses; before the decision a failure undoes, after it finishes', () => {
  const recoveries = PHASES.map((phase) => PHASE_TABLE[phase].recovery);
  expect(recoveries).toEqual(['refuse', 'undo', 'undo', 'undo', 'undo', 'undo', 'finish', 'finish']);
});

test('the owner changes exactly once, with the decision', () => {
  for (const phase of PHASES) {
    expect(PHASE_TABLE[phase].owner).toBe(isCommitted(phase) ? 'destination' : 'source');
  }
});
