/** Cells whose keys were exchanged in the background: a move says nothing to their peers before its MOVE. */
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it, vi } from 'vitest';
import { execOn, LAB_HOSTS, type LabHost } from '../fixtures/lab/hosts.ts';
import {
  startDatagramClient,
  startDatagramServer,
  startStreamClient,
  startStreamServer,
} from '../fixtures/load/control.ts';
import { startLines } from '../fixtures/load/lines.ts';
import { endEverywhere } from '../fixtures/load/processes.ts';
import { migrateArgs, move, osmosis, statusOf } from './cli.ts';
import { expectAllAnswered } from './datagrams.ts';
import { captureH2o } from './h2o-capture.ts';
import { leavesNothing } from './traces.ts';

const BETWEEN_MS = 400;
const REGISTERED_MS_MAX = 20_000;

leavesNothing();

type Kept = { cell: string; peers: { peer: string; flows: number; told: boolean }[] };

async function kept(host: LabHost, ...args: string[]): Promise<Kept[]> {
  const { stdout } = await execOn(host, ['osmosis', 'keep', ...args, '--json']);
  return (JSON.parse(stdout) as { cells: Kept[] }).cells;
}

/** Until the peer has agreed to so many flows of the cell at `host`. */
async function untilRegistered(host: LabHost, cell: string, flows: number): Promise<void> {
  const peer = { peer: LAB_HOSTS.peer, flows, told: true };
  await vi.waitFor(
    async () =>
      expect((await kept(host)).find((each) => each.cell === cell)?.peers).toContainEqual(
        expect.objectContaining(peer),
      ),
    { timeout: REGISTERED_MS_MAX, interval: 100 },
  );
}

/** The peer hears the MOVE and nothing before it. */
async function movesUnasked(cell: string, from: LabHost, to: LabHost, flows: number): Promise<void> {
  await untilRegistered(from, cell, flows);
  const dry = await osmosis(migrateArgs(cell, from, to, '--dry-run'));
  expect(dry.object).toMatchObject({
    plan: { peers: [{ address: LAB_HOSTS.peer, agent: true, flows, registered: true }] },
  });
  await using captured = await captureH2o('peer');
  expect((await move(cell, from, to)).flows).toEqual({ moved: flows, relayed: 0, lost: 0 });
  const { cells } = await statusOf<{ cells: { id: string; name: string }[] }>(to);
  const heard = await captured.read(cells.find(({ name }) => name === cell)?.id ?? '');
  // Once every 20 seconds it is asked in the background whether all still stands.
  expect(heard.filter((type) => type !== 'background')[0], heard.join()).toBe('move');
  await sleep(BETWEEN_MS);
}

describe('a cell whose flows are agreed beforehand', () => {
  it('moves without a word before: streams, kept, away and home', async () => {
    await using server = await startStreamServer('alpha', { port: 7660 });
    await using load = await startStreamClient({ server: 'alpha', port: 7660, connections: 10 });
    const [{ cell } = { cell: '' }] = await kept('alpha', String(server.pid));
    // One more, by which the load asks its server in the end.
    await movesUnasked(cell, 'alpha', 'beta', 11);
    await movesUnasked(cell, 'beta', 'alpha', 11);
    const summary = await load.stop();
    expect(summary, JSON.stringify(summary)).toMatchObject({ ok: true, resets: 0, out_of_order: 0 });
  });

  it('started with `osmosis run`, and with a connection that comes up later', async () => {
    const argv = ['python3', '/opt/osmosis/fixtures/load/tree-server.py', '7661', 'single', '0.0.0.0'];
    const { stdout } = await execOn('alpha', ['osmosis', 'run', '--json', '--', ...argv]);
    const { cell } = JSON.parse(stdout) as { cell: string };
    await sleep(BETWEEN_MS);
    try {
      const first = await startLines('peer', ['alpha:7661'], { connections: 10 });
      await movesUnasked(cell, 'alpha', 'beta', 10);
      expect(await first.stop()).toMatchObject({ ok: true, faults: [] });
    } finally {
      await endEverywhere('tree-server.py 7661', ['alpha', 'beta']);
    }
  });

  it('datagrams', async () => {
    await using server = await startDatagramServer('alpha', { port: 7662, connected: true });
    await using load = await startDatagramClient({
      server: 'alpha',
      port: 7662,
      connected: 10,
      unconnected: 0,
    });
    const [{ cell } = { cell: '' }] = await kept('alpha', String(server.pid));
    await movesUnasked(cell, 'alpha', 'beta', 10);
    await load.stop().then(expectAllAnswered);
  });
});
