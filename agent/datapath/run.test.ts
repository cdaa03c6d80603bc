import { expect, test } from 'vitest';
import { OsmosisError } from '../error.ts';
import { inNamespace, runnerIn } from './run.ts';

test('a tool runs where it is asked to', () => {
  expect(inNamespace(undefined, 'tc', ['qdisc'])).toEqual(['tc', ['qdisc']]);
  expect(inNamespace('/proc/1/ns/net', 'tc', ['qdisc'])).toEqual([
    'nsenter',
    ['--net=/proc/1/ns/net', '--', 'tc', 'qdisc'],
  ]);
});

test('failures say which command, why, and what to do', async () => {
  const run = runnerIn(undefined);
  expect(await run('echo', ['one', 'two'])).toBe('one two');
  const failing = run('ls', ['/no/such/file']);
  await expect(failing).rejects.toBeInstanceOf(OsmosisError);
  await expect(failing).rejects.toMatchObject({
    code: 'DATAPATH',
    message: expect.stringContaining('No such file'),
  });
  await expect(run('no-such-tool', [])).rejects.toThrow('install');
  await expect(run('sleep', ['5'], AbortSignal.abort())).rejects.toThrow('aborted while running: sleep 5');
});
