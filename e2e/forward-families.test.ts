/** migrate --forward-new for what is not TCP over IPv4: datagrams, IPv6, and servers of both families at once. */
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { LAB_HOSTS, LAB_HOSTS6 } from '../fixtures/lab/hosts.ts';
import { startDatagramClient, startDatagramServer } from '../fixtures/load/control.ts';
import { startLines, startTreeServer, type Target } from '../fixtures/load/lines.ts';
import { move } from './cli.ts';
import { expectAllAnswered } from './datagrams.ts';
import { leavesNothing } from './traces.ts';

const BETWEEN_MS = 500;

leavesNothing();

describe('what is new follows a server of both families', () => {
  it('connections: from a peer straight, from a host without an agent by way of the old home, where it comes back to', async () => {
    await using server = await startTreeServer('alpha', 7460, 'single', '::');
    const both = [`${LAB_HOSTS.alpha}:7460`, `[${LAB_HOSTS6.alpha}]:7460` as Target] as const;
    await using old = await startLines('peer', both, { connections: 4 });
    const { cell } = await move(server.pid, 'alpha', 'beta', '--forward-new', '1m');
    const first = await Promise.all(
      (['peer', 'legacy', 'alpha'] as const).map((host) => startLines(host, both, { connections: 4 })),
    );
    await sleep(BETWEEN_MS);
    await move(cell, 'beta', 'alpha');
    await using atHome = await startLines('legacy', both, { connections: 2 });
    await sleep(BETWEEN_MS);
    for (const client of [old, ...first, atHome])
      expect(await client.stop()).toMatchObject({ ok: true, faults: [] });
  }, 120_000);

  it('datagrams: the same', async () => {
    await using server = await startDatagramServer('alpha', { port: 7461, listen: '::' });
    const to = (on: 'peer' | 'legacy' | 'alpha', server: string) =>
      startDatagramClient({ server, on, port: 7461, connected: 2, unconnected: 2 });
    const both = [LAB_HOSTS.alpha, LAB_HOSTS6.alpha];
    const old = await Promise.all(both.map((address) => to('peer', address)));
    const { cell, flows } = await move(server.pid, 'alpha', 'beta', '--forward-new', '1m');
    expect(flows).toEqual({ moved: 8, relayed: 0, lost: 0 });
    const first = await Promise.all([
      ...(['peer', 'legacy'] as const).map((host) => to(host, LAB_HOSTS.alpha)),
      ...(['alpha', 'legacy'] as const).map((host) => to(host, LAB_HOSTS6.alpha)),
    ]);
    await sleep(BETWEEN_MS);
    expect((await move(cell, 'beta', 'alpha')).flows).toEqual({ moved: 24, relayed: 0, lost: 0 });
    await sleep(BETWEEN_MS);
    for (const client of [...old, ...first]) {
      const summary = await client.stop();
      expectAllAnswered(summary);
    }
  }, 120_000);
});
