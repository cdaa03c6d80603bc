import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { asOsmosisError, EXIT_STATUS, isErrorCode, messageOf, OsmosisError } from './error.ts';

const rows = [
  ...readFileSync(new URL('../docs/errors.md', import.meta.url), 'utf8').matchAll(
    /^\| (\d+) \| `(\w+)` \|([^|]*)\|([^|]*)\|$/gm,
  ),
];
const documented = rows.map(([, status, code]) => [code, Number(status)]);

test('docs/errors.md lists every code with its status, once', () => {
  expect(documented.length).toBe(Object.keys(EXIT_STATUS).length);
  expect(Object.fromEntries(documented)).toEqual(EXIT_STATUS);
});

test('docs/errors.md has a cause and a remedy for each', () => {
  for (const [, , code, cause = '', remedy = ''] of rows) {
    expect(cause.trim().length, `cause of ${code}`).toBeGreaterThan(10);
    expect(remedy.trim().length, `remedy of ${code}`).toBeGreaterThan(10);
  }
});

test('statuses are distinct and fit a process', () => {
  const statuses = Object.values(EXIT_STATUS);
  expect(new Set(statuses).size).toBe(statuses.length);
  for (const status of statuses) expect(status).toSatisfy((value: number) => value > 1 && value < 256);
});

test('an error carries code, phase, owner and what failed while undoing', () => {
  const cause = new Error('first');
  const error = new OsmosisError('DUMP_FAILED', 'no', {
    phase: 'freeze',
    owner: 'source',
    cause,
    cleanup: ['x'],
  });
  expect(error).toMatchObject({
    code: 'DUMP_FAILED',
    exitStatus: 32,
    phase: 'freeze',
    owner: 'source',
    cause,
  });
  expect(error.cleanup).toEqual(['x']);
  expect(new OsmosisError('USAGE', 'no')).toMatchObject({ phase: undefined, owner: undefined, cleanup: [] });
});

test('strangers become the fallback, with themselves as cause; ours stay what they are', () => {
  const ours = new OsmosisError('BUSY', 'wait');
  expect(asOsmosisError(ours, 'CELL')).toBe(ours);
  expect(asOsmosisError('text', 'CELL')).toMatchObject({ code: 'CELL', message: 'text', cause: 'text' });
  expect(asOsmosisError(new TypeError('bug'))).toMatchObject({ code: 'INTERNAL', message: 'bug' });
  expect(messageOf(undefined)).toBe('undefined');
});

test('codes are recognised by their own names only', () => {
  expect(isErrorCode('BUSY')).toBe(true);
  for (const value of ['toString', '__proto__', 'NO', 22, undefined]) expect(isErrorCode(value)).toBe(false);
});
