/** A suspended cell that nobody brings back: its peers' processes are told, and nothing of it is left. */
import { copyFileSync } from 'node:fs';
import { afterAll, afterEach, beforeAll, beforeEach, expect, it } from 'vitest';
import { EXIT_STATUS } from '../agent/error.ts';
import { execOn, LAB_HOSTS } from '../fixtures/lab/hosts.ts';
import { startMovableLines, startTreeServer } from '../fixtures/load/lines.ts';
import { killAgents, untilAgentsBack } from './agents.ts';
import { osmosis, statusOf } from './cli.ts';
import { imageDirectory, resumeArgs, suspend } from './suspending.ts';
import { leavesNothing } from './traces.ts';

/** One for each case. */
let port = 7660;
const CONNECTIONS = 5;
const TOLD_MS_MAX = 20_000;

type Remote = { cell: string; state: string; flows: number; held_since?: number };

leavesNothing();
let images: ReturnType<typeof imageDirectory>;
beforeAll(() => {
  images = imageDirectory();
});
afterAll(() => images[Symbol.dispose]());

let things: AsyncDisposableStack;
let client: Awaited<ReturnType<typeof startMovableLines>>;
let file: string;
beforeEach(async () => {
  things = new AsyncDisposableStack();
  port++;
  const server = things.use(await startTreeServer('alpha', port));
  client = await startMovableLines('peer', [`alpha:${port}`], { connections: CONNECTIONS });
  file = images.file(`given-up-${Date.now()}`);
  await suspend(server.pid, 'alpha', file);
});
afterEach(() => things.disposeAsync());

const discardArgs = (...more: string[]) => ['discard', file, '--on', 'ssh://alpha', '--json', ...more];

async function held(): Promise<Remote[]> {
  const { remote_cells } = await statusOf<{ remote_cells: Remote[] }>('peer');
  return remote_cells.filter(({ state }) => state === 'held');
}

/** Every connection ended with an error, and none with what looks like its end. */
async function expectEnded(): Promise<void> {
  await expect.poll(held, { timeout: TOLD_MS_MAX }).toEqual([]);
  const { faults } = await client.stop('peer', client.pid);
  expect(faults).toHaveLength(CONNECTIONS);
  for (const fault of faults) expect(fault).toMatch(/Connection(Aborted|Reset)Error/);
}

it('ends the connections of its peers; neither the file nor a copy can be resumed', async () => {
  const copy = images.file('copy');
  copyFileSync(file, copy);
  copyFileSync(`${file}.key`, `${copy}.key`);
  expect(await osmosis(discardArgs())).toMatchObject({
    object: { ok: false, code: 'USAGE' },
    exitCode: EXIT_STATUS.USAGE,
  });
  expect((await osmosis(discardArgs('--dry-run'))).object).toMatchObject({
    ok: true,
    dry_run: true,
    plan: { state: 'stored', peers: [{ address: LAB_HOSTS.peer }] },
  });
  expect(await held()).toMatchObject([{ flows: CONNECTIONS }]);
  expect((await osmosis(discardArgs('--yes'))).object).toMatchObject({
    ok: true,
    told: [LAB_HOSTS.peer],
    gone: [],
    unconfirmed: [],
  });
  await expectEnded();
  expect((await osmosis(['inspect', file, '--json'])).object).toMatchObject({ state: 'discarded' });
  expect((await osmosis(resumeArgs(file, 'beta'))).object).toMatchObject({ ok: false, code: 'IMAGE_USED' });
  expect((await osmosis(resumeArgs(copy, 'beta'))).object).toMatchObject({ ok: false, code: 'IMAGE_STALE' });
  // Once more tells whoever has not heard; here nobody.
  expect((await osmosis(discardArgs('--yes'))).object).toMatchObject({ ok: true, gone: [LAB_HOSTS.peer] });
});

it('a peer that does not answer is told when it does, by an agent that was restarted meanwhile', async () => {
  await execOn('peer', ['pkill', '-STOP', '-f', 'osmosis agent$']);
  try {
    const { object, exitCode } = await osmosis(discardArgs('--yes'));
    expect(object).toMatchObject({ ok: true, told: [], unconfirmed: [LAB_HOSTS.peer] });
    expect(exitCode).toBe(EXIT_STATUS.UNCONFIRMED);
    await killAgents('alpha');
    await untilAgentsBack('alpha');
  } finally {
    await execOn('peer', ['pkill', '-CONT', '-f', 'osmosis agent$']);
  }
  await expectEnded();
});

it('the file is lost: the operator of the peer ends what waits there', async () => {
  const [{ cell, held_since } = { cell: '', held_since: 0 }] = await held();
  expect(Date.now() - (held_since ?? 0)).toBeLessThan(60_000);
  const end = (...more: string[]) =>
    osmosis(['held', 'end', cell.slice(0, 8), '--on', 'ssh://peer', '--json', ...more]);
  const ended = [{ cell, flows: CONNECTIONS, since: held_since }];
  expect((await end('--dry-run')).object).toMatchObject({ ok: true, dry_run: true, ended });
  expect(await held()).toHaveLength(1);
  expect((await end('--yes')).object).toMatchObject({ ok: true, ended });
  await expectEnded();
  expect((await osmosis(resumeArgs(file, 'beta'))).object).toMatchObject({ ok: false, code: 'IMAGE_STALE' });
});
