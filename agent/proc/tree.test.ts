import { spawn } from 'node:child_process';
import { expect, onTestFinished, test } from 'vitest';
import { eventually } from '../test-support.ts';
import { procLink, procList, procText } from './text.ts';
import {
  childrenOf,
  commandLine,
  findByInnerPid,
  isAlive,
  parseStatus,
  processStatus,
  processTree,
  startTicks,
} from './tree.ts';

const STATUS = `Name:	my server: x
Umask:	0022
State:	S (sleeping)
Tgid:	4242
Pid:	4242
PPid:	17
TracerPid:	0
Uid:	1000	999	1000	1000
VmRSS:	  20480 kB
Threads:	5
NSpid:	4242	12
`;

test('/proc/PID/status of a process in a PID namespace', () => {
  expect(parseStatus(STATUS)).toEqual({
    pid: 4242,
    name: 'my server: x',
    state: 'S',
    parent: 17,
    uid: 999,
    threads: 5,
    residentBytes: 20_480 * 1024,
    namespacePids: [4242, 12],
  });
});

test('a zombie has no memory; an older kernel no NSpid', () => {
  expect(parseStatus('Name:\tx\nState:\tZ (zombie)\nPid:\t7\nPPid:\t1\n')).toMatchObject({
    state: 'Z',
    residentBytes: 0,
    namespacePids: [7],
  });
});

test.each(['', 'no status', 'Pid:\tx'])('%j is no status', (text) => {
  expect(parseStatus(text)).toBeUndefined();
});

test('what is not there is undefined or empty, never an error', () => {
  expect([procText('/proc/0/status'), procLink('/proc/0/exe'), procList('/proc/0/fd')]).toEqual([
    undefined,
    undefined,
    [],
  ]);
  expect([processStatus(2 ** 30), startTicks(2 ** 30), isAlive(2 ** 30)]).toEqual([
    undefined,
    undefined,
    false,
  ]);
  expect(processTree(2 ** 30)).toEqual([]);
  expect(commandLine(2 ** 30)).toBe('[?]');
});

test('a real tree: parents first, alive until it is killed', async () => {
  const shell = spawn('sh', ['-c', 'sleep 60 & sleep 61 & wait'], { stdio: 'ignore' });
  const pid = shell.pid ?? 0;
  const kill = () => {
    for (const one of processTree(pid).reverse()) process.kill(one.pid, 'SIGKILL');
  };
  onTestFinished(kill);
  await eventually(() => expect(childrenOf(pid).map(commandLine).sort()).toEqual(['sleep 60', 'sleep 61']));
  const tree = processTree(pid);
  expect(tree[0]).toMatchObject({ pid, parent: process.pid, name: 'sh' });
  expect(tree.slice(1).map(({ pid: child }) => child)).toEqual(childrenOf(pid));
  expect(findByInnerPid(process.pid, pid)).toBe(pid);
  expect(startTicks(pid)).toBeGreaterThanOrEqual(startTicks(process.pid) ?? Number.POSITIVE_INFINITY);
  kill();
  await eventually(() => expect(isAlive(pid)).toBe(false));
});
