/** docs/model/handoff.pml, checked by spin: the protocol as it is holds, and each broken variant is refuted. */
import { cp, mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { execa, execaSync } from 'execa';
import { describe, expect, it } from 'vitest';

const MODEL = fileURLToPath(new URL('../docs/model/handoff.pml', import.meta.url));
const README = fileURLToPath(new URL('../docs/model/README.md', import.meta.url));
const DEPTH_MAX = '1000000';
/** As many processes as have a bit each in pan's fairness counters: 16 a byte. */
const FAIR = '-DNFAIR=5';
const CHECK_MS_MAX = 60_000;

const missing = (['spin', 'gcc'] as const).filter(
  (program) => execaSync(program, [program === 'spin' ? '-V' : '--version'], { reject: false }).failed,
);
if (missing.length > 0)
  console.warn(`SKIPPED: the model of the handoff is not checked, this machine has no ${missing.join(', ')}`);

/** What pan says of the model, with one thing left out of it or none. */
async function check(kind: 'assertions' | 'progress', without?: string): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'osmosis-model-'));
  try {
    await cp(MODEL, join(directory, 'handoff.pml'));
    const run = { cwd: directory, timeout: CHECK_MS_MAX };
    await execa('spin', ['-a', ...(without === undefined ? [] : [`-D${without}`]), 'handoff.pml'], run);
    const how = kind === 'assertions' ? ['-DSAFETY', '-DNOCLAIM'] : [FAIR];
    await execa('gcc', ['-w', '-O1', ...how, '-o', 'pan', 'pan.c'], run);
    const { stdout } = await execa(
      join(directory, 'pan'),
      [`-m${DEPTH_MAX}`, ...(kind === 'progress' ? ['-a', '-f'] : [])],
      run,
    );
    // A search that was cut short proves nothing.
    expect(stdout).not.toMatch(/max search depth too small|out of memory/);
    return stdout;
  } finally {
    await rm(directory, { recursive: true });
  }
}

const REFUTED = {
  NO_DECISION_FILE: 'source_runs',
  RESUMED_EARLY: 'source_runs',
  UNANNOUNCED: 'sends_to',
  UNARMED: 'sends_to',
  BYE_UNANSWERED: 'sends_to',
  REPEATED_HELLO: 'sends_to',
  NO_RECEIPT: 'sends_to',
  UNASKED_EARLY: 'sends_to',
} as const;

describe.skipIf(missing.length > 0)('the model of the handoff', { timeout: CHECK_MS_MAX }, () => {
  it('never has two owners, and never draws a reset', async () => {
    const said = await check('assertions');
    expect(said).toContain('errors: 0');
    // Every step of every process was taken: only the ends of those that go on for ever were not.
    const unreached = said.match(/handoff\.pml:\d+, state \d+, "(?!-end-).*"/g);
    expect(unreached).toBeNull();
  });

  it('ends with a copy that runs, and that the peer sends to', async () => {
    expect(await check('progress')).toContain('errors: 0');
  });

  it.each(Object.entries(REFUTED))('is refuted with %s', async (without, of) => {
    expect(await check('assertions', without)).toMatch(new RegExp(`assertion violated .*${of}`));
  });

  it('makes no progress with NEVER_ASKS', async () => {
    expect(await check('progress', 'NEVER_ASKS')).toMatch(/acceptance cycle/);
  });

  it('has its variants in its README', async () => {
    const [model, text] = await Promise.all([readFile(MODEL, 'utf8'), readFile(README, 'utf8')]);
    const named = [...model.matchAll(/#ifn?def (\w+)/g)].map(([, name]) => name);
    expect(new Set(named)).toEqual(new Set([...Object.keys(REFUTED), 'NEVER_ASKS']));
    for (const name of named) expect(text).toContain(`\`${name}\``);
  });
});
