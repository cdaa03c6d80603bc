/** hook.sh as CRIU runs it: an environment, and an exit status. */
import { existsSync, openSync, readFileSync, rmSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { execa, execaSync } from 'execa';
import { expect, test } from 'vitest';
import { eventually, temporaryDirectory } from '../test-support.ts';
import { HOOK_PATH } from './argv.ts';
import { Decision } from './decision.ts';

const LONG_TICKS = 1_000;

function startHook(action: string, ticks = LONG_TICKS) {
  const work = temporaryDirectory();
  const decision = new Decision(join(work, 'decisions'), 'm');
  decision.prepare(new Uint8Array(32));
  const start = async () => {
    const { exitCode } = await execa('sh', [HOOK_PATH], {
      reject: false,
      env: {
        CRTOOLS_SCRIPT_ACTION: action,
        OSMOSIS_WORK: work,
        OSMOSIS_DECISION: decision.path,
        OSMOSIS_DEADLINE_TICKS: String(ticks),
      },
    });
    return exitCode;
  };
  return { decision, start, marker: (name: string) => existsSync(join(work, name)), work };
}

test.each([
  ['commit', 0],
  ['abort', 1],
] as const)('post-dump waits for the decision: %s is exit %d', async (verdict, status) => {
  const { decision, start, marker } = startHook('post-dump');
  const exited = start();
  await eventually(() => expect(marker('frozen')).toBe(true));
  expect(await Promise.race([exited, sleep(60, 'waits')])).toBe('waits');
  decision.decide(verdict);
  expect(await exited).toBe(status);
});

test.each([
  ['commit', 0],
  ['abort', 1],
] as const)('a decision that stands already is obeyed at once: %s', async (verdict, status) => {
  const { decision, start } = startHook('post-dump', 0);
  decision.decide(verdict);
  expect(await start()).toBe(status);
  expect(decision.read()).toBe(verdict);
});

test('at its deadline the hook decides abort itself, and a commit comes too late', async () => {
  const { decision, start } = startHook('post-dump', 3);
  expect(await start()).toBe(1);
  expect(decision.decide('commit')).toBe('abort');
  expect(readFileSync(decision.path, 'utf8')).toBe('abort\n');
});

test('without its files the hook never lets the process go', async () => {
  const { decision, start } = startHook('post-dump', 1);
  decision.clear();
  expect(await start()).not.toBe(0);
  expect(decision.read()).toBeUndefined();
});

test.each([
  ['commit', 0],
  ['abort', 1],
  ['nonsense', 1],
])('post-restore waits for the agent: %s is exit %d', async (verdict, status) => {
  const { start, marker, work } = startHook('post-restore');
  execaSync('mkfifo', [join(work, 'verdict')]);
  const exited = start();
  await eventually(() => expect(marker('restored')).toBe(true));
  expect(await Promise.race([exited, sleep(60, 'waits')])).toBe('waits');
  writeSync(openSync(join(work, 'verdict'), 'r+'), `${verdict}\n`);
  expect(await exited).toBe(status);
});

test('post-restore takes a verdict that was written before it came', async () => {
  const { start, work } = startHook('post-restore');
  execaSync('mkfifo', [join(work, 'verdict')]);
  writeSync(openSync(join(work, 'verdict'), 'r+'), 'commit\n');
  expect(await start()).toBe(0);
});

test('post-resume leaves its mark; other actions are none of its business', async () => {
  const resumed = startHook('post-resume');
  expect([await resumed.start(), resumed.marker('resumed')]).toEqual([0, true]);
  for (const action of ['pre-dump', 'setup-namespaces', '']) {
    const other = startHook(action);
    expect(await other.start()).toBe(0);
    rmSync(join(other.work, 'decisions'), { recursive: true });
  }
});
