/** The units of agent/systemd: systemd takes them, and their command lines are ours. */
import { copyFileSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { execa } from 'execa';
import { expect, test } from 'vitest';
import { temporaryDirectory } from '../agent/test-support.ts';
import { parseDuration } from './lease.ts';

const UNITS = ['osmosis-agent.service', 'osmosis-drain.service'] as const;
const fileOf = (unit: string) => fileURLToPath(new URL(`../agent/systemd/${unit}`, import.meta.url));
const OSMOSIS = '/usr/local/bin/osmosis';

const hasSystemd = !(await execa('systemd-analyze', ['--version'], { reject: false })).failed;
if (!hasSystemd) console.warn('SKIPPED: systemd-analyze is not on this machine; the units are not verified');

test.skipIf(!hasSystemd)('systemd-analyze verify has nothing to say', async () => {
  const directory = temporaryDirectory();
  for (const unit of UNITS) {
    copyFileSync(fileOf(unit), join(directory, unit));
    // It wants the program to be there, which a test does not install.
    const text = readFileSync(join(directory, unit), 'utf8').replaceAll(OSMOSIS, '/bin/true');
    writeFileSync(join(directory, unit), text);
  }
  const { stdout, stderr, exitCode } = await execa(
    'systemd-analyze',
    ['verify', '--man=no', ...UNITS.map((unit) => join(directory, unit))],
    { reject: false, timeout: 30_000 },
  );
  const complaints = `${stdout}\n${stderr}`.split('\n').filter((line) => line.includes('osmosis-'));
  expect({ exitCode, complaints }).toEqual({ exitCode: 0, complaints: [] });
});

test('the drain at shutdown ends before systemd loses patience', () => {
  const text = readFileSync(fileOf('osmosis-drain.service'), 'utf8');
  const stop = /^TimeoutStopSec=(\S+)$/m.exec(text)?.[1] ?? '';
  const deadline = /^ExecStop=.* --deadline (\S+)/m.exec(text)?.[1] ?? '';
  // A move that has begun by the deadline is finished: it is frozen for a minute at most.
  // Restarting the agent must not drain the host; and a unit that has not started, as the agent was not ready, is never stopped.
  expect(text).not.toMatch(/^(Requires|BindsTo|PartOf)=/m);
  expect(text).toMatch(/^Restart=on-failure$/m);
  const rest_ms = parseDuration(stop, 'TimeoutStopSec') - parseDuration(deadline, '--deadline');
  expect(rest_ms).toBeGreaterThanOrEqual(60_000);
});
