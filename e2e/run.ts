/**
 * `npm test`: the unit tests, and the e2e tests side by side in lanes. The first lane has the lab of this machine, which
 * stays up; each other one has a lab and a network namespace of its own, which end with it.
 */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { execa } from 'execa';
import { type Counts, countsLine, countsOf, lanesOf, sumOf } from '../fixtures/lanes.ts';
import { setup } from './global-setup.ts';

const LANES = 3;
/** What the unit tests take before the first lane begins, seconds. */
const UNIT_S = 130;
const VITEST = [
  process.execPath,
  join(import.meta.dirname, '../node_modules/vitest/vitest.mjs'),
  ...['run', '--config', join(import.meta.dirname, 'vitest.config.ts')],
];
const LANE = [process.execPath, join(import.meta.dirname, 'lane.ts')];
/** A run that told no result. */
const BROKEN: Counts = { passed: 0, failed: 1, skipped: 0 };

const ending = new AbortController();
// A terminal sends Ctrl-C to the tests as well: they end, their labs with them, and then so do we.
process.on('SIGINT', () => undefined);
for (const signal of ['SIGTERM', 'SIGHUP'] as const) process.on(signal, () => ending.abort());

// One engine and one image for all lanes.
await setup();
const files = readdirSync(import.meta.dirname).filter((file) => file.endsWith('.test.ts'));
const [first = [], ...others] = lanesOf(files, LANES, UNIT_S);
const counts = await Promise.all([
  firstLane(first),
  ...others.map((own, index) => otherLane(own, index + 2)),
]);
const sum = sumOf(counts.flat());
process.exitCode = sum.failed > 0 ? 1 : 0;
process.stdout.write(`${countsLine(sum)}\n`);

async function firstLane(own: readonly string[]): Promise<Counts[]> {
  const unit = await told('unit', [...VITEST, '--project', 'unit']);
  return [unit, await told('1', [...VITEST, '--project', 'e2e', ...pathsOf(own)])];
}

async function otherLane(own: readonly string[], number: number): Promise<Counts[]> {
  const argv = ['unshare', '--net', '--', ...LANE, ...VITEST, '--project', 'e2e', ...pathsOf(own)];
  return [await told(String(number), argv, { OSMOSIS_LAB: `osmosis-lab-${number}` })];
}

/** Vitest takes every file whose path has the name in it: `ends.test.ts` would be `suspended-ends.test.ts` as well. */
function pathsOf(files: readonly string[]): string[] {
  return files.map((file) => join(import.meta.dirname, file));
}

/** Passes on what it prints, with its name in front, and answers with what its last line counts. */
async function told(name: string, argv: readonly string[], env: NodeJS.ProcessEnv = {}): Promise<Counts> {
  const [file = '', ...rest] = argv;
  const child = execa(file, rest, {
    ...{ reject: false, buffer: false, stdin: 'ignore', all: true, env },
    ...{ cancelSignal: ending.signal, forceKillAfterDelay: false },
  } as const);
  let counts: Counts | undefined;
  for await (const line of createInterface({ input: child.all })) {
    const found = countsOf(line);
    counts = found ?? counts;
    if (found === undefined) process.stdout.write(`${name} | ${line}\n`);
  }
  const { exitCode } = await child;
  if (counts === undefined || (exitCode !== 0 && counts.failed === 0))
    return sumOf([counts ?? BROKEN, BROKEN]);
  return counts;
}
