/** A datagram server that is published where it has moved to, and clients of it that come and go. */
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { LAB_HOSTS, LAB_HOSTS6, type LabHost } from '../fixtures/lab/hosts.ts';
import { startDatagramClient, startDatagramServer } from '../fixtures/load/control.ts';
import { move } from './cli.ts';
import { leftSince, type Traces, traces } from './traces.ts';

const BETWEEN_MS = 500;
const PORT = 7490;
const GOOD = { ok: true, duplicated: 0, misrouted: 0, refused: 0, unanswered: 0 };

let before: Traces;
beforeAll(async () => {
  before = await traces();
});
afterAll(async () => {
  expect(await leftSince(before)).toEqual({});
}, 60_000);

const client = (on: LabHost, server: string, port: number) =>
  startDatagramClient({ server, on, port, connected: 2, unconnected: 2 });

describe('a published datagram server', () => {
  it('is reached by anyone, and takes those with an agent along', async () => {
    await using server = await startDatagramServer('alpha', { port: PORT, listen: '::' });
    const old = await client('peer', LAB_HOSTS.alpha, PORT);
    const { cell } = await move(server.pid, 'alpha', 'beta', '--publish', `${PORT + 1}=${PORT}`);
    const [peer, six, home, near, legacy] = await Promise.all([
      client('peer', LAB_HOSTS.beta, PORT + 1),
      client('peer', LAB_HOSTS6.beta, PORT + 1),
      client('alpha', LAB_HOSTS.beta, PORT + 1),
      client('beta', LAB_HOSTS.beta, PORT + 1),
      client('legacy', LAB_HOSTS.beta, PORT + 1),
    ]);
    await sleep(BETWEEN_MS);
    expect(await legacy.stop()).toMatchObject(GOOD);
    // These have ended: whoever comes next is not in their way, and nobody counts them.
    expect(await six.stop()).toMatchObject(GOOD);
    const { flows } = await move(cell, 'beta', 'gamma', '--drop-legacy');
    expect(flows).toMatchObject({ moved: 16 });
    await sleep(BETWEEN_MS);
    expect((await move(cell, 'gamma', 'alpha')).flows.moved).toBe(16);
    await sleep(BETWEEN_MS);
    for (const load of [old, peer, home, near]) {
      const summary = await load.stop();
      expect(summary, summary.faults.join('\n')).toMatchObject(GOOD);
    }
  }, 60_000);
});
