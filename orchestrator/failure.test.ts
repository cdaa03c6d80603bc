import { CommanderError } from 'commander';
import { afterEach, expect, test, vi } from 'vitest';
import { OsmosisError } from '../agent/error.ts';
import { report } from './failure.ts';

const said = { out: '', err: '' };
for (const [stream, name] of [
  [process.stdout, 'out'],
  [process.stderr, 'err'],
] as const)
  vi.spyOn(stream, 'write').mockImplementation((text) => {
    said[name] += text;
    return true;
  });
afterEach(() => Object.assign(said, { out: '', err: '' }));

const unknownOption = new CommanderError(1, 'commander.unknownOption', "error: unknown option '--nope'");

test('what is asked for as JSON fails as JSON, a wrong command line too', () => {
  expect(report(unknownOption, ['ps', '--json', '--nope'])).toBe(64);
  expect(JSON.parse(said.out)).toMatchObject({
    ok: false,
    code: 'USAGE',
    message: "unknown option '--nope'",
  });
});

test('commander has said what is wrong: it is not said twice', () => {
  expect(report(unknownOption, ['ps', '--nope'])).toBe(64);
  expect(report(new CommanderError(0, 'commander.version', '0.1.0'), ['--version', '--json'])).toBe(0);
  expect(said).toEqual({ out: '', err: '' });
});

test('--json of a program that is to be started is not ours', () => {
  expect(report(new OsmosisError('BUSY', 'wait'), ['run', '--', 'server', '--json'])).toBe(22);
  expect(said).toEqual({ out: '', err: 'osmosis: wait\n' });
});
