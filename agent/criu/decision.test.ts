import { readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { execa } from 'execa';
import { expect, test } from 'vitest';
import { temporaryDirectory } from '../test-support.ts';
import { clearOldDecisions, Decision } from './decision.ts';

const key = Uint8Array.from({ length: 32 }, (_, index) => index);

function prepared(directory = join(temporaryDirectory(), 'decisions')) {
  const decision = new Decision(directory, 'm1');
  decision.prepare(key);
  return { directory, decision };
}

test('undecided at first, with the key for whoever may ask', () => {
  const { directory, decision } = prepared();
  expect(decision.read()).toBeUndefined();
  expect(decision.key()).toEqual(key);
  expect(new Decision(directory, 'm1').key()).toEqual(key);
  expect(new Decision(directory, 'other').key()).toBeUndefined();
  expect(statSync(`${decision.path}.key`).mode & 0o777).toBe(0o600);
  expect(statSync(directory).mode & 0o777).toBe(0o700);
});

test.each([
  ['commit', 'abort'],
  ['abort', 'commit'],
] as const)('%s stands once it was first, whatever comes later', (first, second) => {
  const { directory, decision } = prepared();
  expect(decision.decide(first)).toBe(first);
  expect(decision.decide(second)).toBe(first);
  expect(decision.decide(first)).toBe(first);
  expect(new Decision(directory, 'm1').read()).toBe(first);
  expect(readFileSync(decision.path, 'utf8')).toBe(`${first}\n`);
});

test('what is cleared, or was never prepared, can only be aborted', () => {
  const { directory, decision } = prepared();
  decision.clear();
  for (const each of [decision, new Decision(directory, 'other'), new Decision('/nowhere', 'm1')]) {
    expect(() => each.decide('commit')).toThrow('ENOENT');
    expect(each.decide('abort')).toBe('abort');
    expect(each.read()).toBeUndefined();
  }
});

test('among many at once one wins, and all are told the same', async () => {
  for (let round = 0; round < 5; round++) {
    const { decision } = prepared();
    const rivals = Array.from({ length: 8 }, (_, index) =>
      execa('ln', [`${decision.path}.${index % 2 === 0 ? 'abort' : 'commit'}`, decision.path], {
        reject: false,
      }),
    );
    const ours = decision.decide(round % 2 === 0 ? 'commit' : 'abort');
    const won = (await Promise.all(rivals)).filter(({ failed }) => !failed);
    expect(won.length).toBeLessThanOrEqual(1);
    expect(decision.read()).toBe(ours);
  }
});

test('deciding what was never prepared is an error, not a decision', () => {
  const decision = new Decision(temporaryDirectory(), 'm1');
  expect(() => decision.decide('commit')).toThrow(/ENOENT/);
  expect(decision.read()).toBeUndefined();
});

test('old decisions are cleared, new ones and a folder that is not there are left alone', () => {
  const { directory, decision } = prepared();
  decision.decide('commit');
  clearOldDecisions(join(directory, 'nowhere'), 0);
  clearOldDecisions(directory, 60_000);
  expect(decision.read()).toBe('commit');
  clearOldDecisions(directory, -1);
  expect(decision.read()).toBeUndefined();
  expect(readdirSync(directory)).toEqual([]);
});
