/** Crashes that a stream must survive: the orchestrator's at any moment, and an agent's after the move. */
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { execOn, LAB_HOSTS, spawnOn } from '../fixtures/lab/hosts.ts';
import { startStreamClient, startStreamServer } from '../fixtures/load/control.ts';
import { killAgents, untilAgentsBack, untilIdle } from './agents.ts';
import { migrateArgs, move, osmosis } from './cli.ts';
import { KILL_AGENT, MARK_AND_WAIT, onMark, replaceProgram } from './inject.ts';
import { leftSince, type Traces, traces } from './traces.ts';

const SETTLE_MS = 3_000;
/** A connection that was dropped learns it when it next speaks. */
const ENDED_MS_MAX = 10_000;
let before: Traces;

beforeAll(async () => {
  before = await traces();
});

afterAll(async () => {
  expect(await leftSince(before)).toEqual({});
});

describe('the orchestrator is killed', () => {
  it('before commit: the process stays at the source', async () => {
    await using server = await startStreamServer('alpha', { port: 7120 });
    await using client = await startStreamClient({ server: 'alpha', port: 7120 });
    await using _slow = await replaceProgram(
      'beta',
      'criu',
      `case $1 in restore) ${MARK_AND_WAIT};; esac; exec "$REAL" "$@"`,
    );
    const kill = new AbortController();
    const running = osmosis(migrateArgs(server.pid, 'alpha', 'beta'), {
      signal: kill.signal,
      interrupt: 'SIGKILL',
    });
    setTimeout(() => kill.abort(), 1_500);
    await running;
    await untilIdle(['alpha', 'beta'], SETTLE_MS);
    expect(await server.locate()).toEqual([{ host: 'alpha', pid: server.pid }]);
    expect(await client.stop()).toMatchObject({ ok: true, resets: 0 });
  });

  it('at any moment: one owner, and the stream goes on', async () => {
    await using server = await startStreamServer('alpha', { port: 7121 });
    await using client = await startStreamClient({ server: 'alpha', port: 7121 });
    for (const ms of [500, 700, 800, 900, 1_000, 1_100, 1_200]) {
      const [at] = await server.locate();
      if (at === undefined) throw new Error('the server is nowhere');
      const [from, to] = at.host === 'alpha' ? (['alpha', 'beta'] as const) : (['beta', 'alpha'] as const);
      const kill = new AbortController();
      setTimeout(() => kill.abort(), ms);
      await osmosis(migrateArgs(at.pid, from, to), { signal: kill.signal, interrupt: 'SIGKILL' });
      await untilIdle(['alpha', 'beta'], SETTLE_MS);
      expect(await server.locate()).toHaveLength(1);
    }
    expect(await client.stop()).toMatchObject({ ok: true, resets: 0, out_of_order: 0 });
  });
});

describe('an agent is killed', () => {
  it('after the move: connections go on, and the cell still moves', async () => {
    await using server = await startStreamServer('alpha', { port: 7122 });
    await using client = await startStreamClient({ server: 'alpha', port: 7122, connections: 20 });
    const { cell } = await move(server.pid, 'alpha', 'beta');
    await killAgents('beta', 'peer');
    await untilAgentsBack('beta', 'peer');
    const { stdout } = await osmosis(['ps', 'ssh://beta', 'ssh://peer']);
    expect(stdout).toContain(cell);
    expect(stdout).toContain(`now at ${LAB_HOSTS.beta}`);
    expect((await move(cell, 'beta', 'gamma')).flows.moved).toBe(21);
    await sleep(SETTLE_MS);
    expect(await client.stop()).toMatchObject({ ok: true, resets: 0, out_of_order: 0 });
  });

  it("the source's, right after the freeze has begun to restore: it comes back and undoes", async () => {
    await using server = await startStreamServer('alpha', { port: 7123 });
    await using client = await startStreamClient({ server: 'alpha', port: 7123 });
    await using _slow = await replaceProgram(
      'beta',
      'criu',
      `case $1 in restore) ${MARK_AND_WAIT};; esac; exec "$REAL" "$@"`,
    );
    await onMark('beta', `ssh alpha "${KILL_AGENT}"`);
    const outcome = await osmosis(migrateArgs(server.pid, 'alpha', 'beta'));
    expect(outcome.object).toMatchObject({ ok: false, owner: 'source' });
    await sleep(SETTLE_MS);
    expect(await server.locate()).toEqual([{ host: 'alpha', pid: server.pid }]);
    expect(await client.stop()).toMatchObject({ ok: true, resets: 0 });
  });
});

describe('a process that ends as soon as it runs again', () => {
  it('leaves nothing of its cell', async () => {
    const untouched = await traces();
    await execOn('beta', ['touch', '/tmp/end-here']);
    const brief = 'import os, time\nwhile not os.path.exists("/tmp/end-here"): time.sleep(0.001)';
    const { pid } = await spawnOn('alpha', ['python3', '-c', brief]);
    await move(pid, 'alpha', 'beta');
    await execOn('beta', ['rm', '/tmp/end-here']);
    expect(await leftSince(untouched)).toEqual({});
  });
});

describe('peers without an agent', () => {
  it('are dropped with --drop-legacy, and the others move', async () => {
    await using server = await startStreamServer('alpha', { port: 7124 });
    await using client = await startStreamClient({ server: 'alpha', port: 7124, connections: 5 });
    // Slowly: once the server has the bytes of a greeting it closes what is no stream client.
    const talk = `while :; do echo x; sleep 1.5; done | nc ${LAB_HOSTS.alpha} 7124`;
    for (const _one of [1, 2]) await spawnOn('legacy', ['sh', '-c', talk]);
    const connected = async () => (await execOn('legacy', ['ss', '-Htn', 'dst', LAB_HOSTS.alpha])).stdout;
    const count = async () =>
      (await connected()).split('\n').filter((line) => line.startsWith('ESTAB')).length;
    await expect.poll(count).toBe(2);
    const moved = await move(server.pid, 'alpha', 'beta', '--drop-legacy');
    expect(moved.flows).toEqual({ moved: 6, relayed: 0, lost: 2 });
    await sleep(SETTLE_MS);
    // The server counts the dropped ones as faults of its own; this client's connections have none.
    expect(await client.stop()).toMatchObject({ resets: 0, out_of_order: 0, closed: 0 });
    await expect.poll(connected, { timeout: ENDED_MS_MAX }).toBe('');
    await execOn('legacy', ['pkill', '-f', 'echo x'], { reject: false });
  });
});
