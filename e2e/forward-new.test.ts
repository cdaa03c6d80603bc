/** migrate --forward-new: new connections to the old address reach the server wherever it is, until the operator ends it. */
import { setTimeout as sleep } from 'node:timers/promises';
import { beforeAll, describe, expect, it } from 'vitest';
import type { LabHost } from '../fixtures/lab/hosts.ts';
import { type LinesSummary, startLines, startTreeServer } from '../fixtures/load/lines.ts';
import { move, osmosis, statusOf } from './cli.ts';
import { leftSince, type Traces, traces } from './traces.ts';

const BETWEEN_MS = 500;
const NEW_EVERY_MS = 150;
const FORGOTTEN_MS_MAX = 20_000;
/** Scope of a relayed flow: agent/datapath/model.ts. */
const RELAY = 0xffffffff;
const GOOD: Partial<LinesSummary> = { ok: true, faults: [] };

type Row = { address: string; until: number };
type Status = {
  cells: { name: string; forwarding?: { lease_s: number; endpoints: unknown[]; peers: Row[] } }[];
  remote_cells: { follow?: { until: number; labels: unknown[] } }[];
};

const ps = (host: LabHost) => statusOf<Status>(host);

async function forward(cell: string, on: LabHost, ...more: string[]): Promise<Record<string, unknown>> {
  const { object, exitCode } = await osmosis(['forward', cell, '--on', `ssh://${on}`, '--json', ...more]);
  expect({ object, exitCode }).toMatchObject({ object: { ok: true, silent: [] }, exitCode: 0 });
  return object;
}

/** How many connections of others this host carries on. */
async function relayedBy(host: LabHost): Promise<number> {
  const { object } = await osmosis(['datapath', `ssh://${host}`, '--json']);
  const { flows } = (object.datapath ?? object) as { flows: { scope: number }[] };
  return flows.filter(({ scope }) => scope === RELAY).length;
}

/** Opens a new connection again and again; each is kept. `stop` ends that, and says what all of them have found. */
function keepConnecting(on: LabHost, target: `${string}:${number}`) {
  const clients: Promise<Awaited<ReturnType<typeof startLines>>>[] = [];
  let isOver = false;
  const running = (async () => {
    while (!isOver) {
      const client = startLines(on, [target], { connections: 1, everyMs: 20 });
      clients.push(client);
      await client;
      await sleep(NEW_EVERY_MS);
    }
  })();
  running.catch(() => undefined);
  return {
    async stop(): Promise<LinesSummary[]> {
      isOver = true;
      await running;
      return await Promise.all(clients.map(async (client) => (await client).stop()));
    },
  };
}

let before: Traces;
beforeAll(async () => {
  before = await traces();
});

describe('new connections to the old address', () => {
  it('follow the server to two hosts, until that is ended; those that were made go on', async () => {
    await using server = await startTreeServer('alpha', 7450);
    await using old = await startLines('peer', ['alpha:7450'], { connections: 4 });
    const during = keepConnecting('peer', 'alpha:7450');
    const { cell } = await move(server.pid, 'alpha', 'beta', '--forward-new', '1m');
    await sleep(BETWEEN_MS);
    const made = await during.stop();
    expect(made.length).toBeGreaterThan(1);
    for (const summary of made) expect(summary).toMatchObject(GOOD);

    const [atPeer, atLegacy, atHome] = await Promise.all([
      startLines('peer', ['alpha:7450'], { connections: 3 }),
      startLines('legacy', ['alpha:7450'], { connections: 3 }),
      startLines('alpha', ['alpha:7450'], { connections: 3 }),
    ]);
    const here = (await ps('beta')).cells[0]?.forwarding;
    expect(here).toMatchObject({ lease_s: 60 });
    expect(here?.peers.map(({ address }) => address).toSorted()).toEqual(['10.77.1.2', '10.77.4.2']);
    for (const host of ['alpha', 'peer'] as const) {
      const [follow] = (await ps(host)).remote_cells.flatMap((each) => each.follow ?? []);
      expect(follow?.until).toBeGreaterThan(Date.now());
    }

    await move(cell, 'beta', 'gamma');
    await sleep(BETWEEN_MS);
    const again = await Promise.all([
      startLines('peer', ['alpha:7450'], { connections: 2 }),
      startLines('legacy', ['alpha:7450'], { connections: 2 }),
    ]);
    await forward(cell, 'gamma', '--end');
    await expect(startLines('peer', ['alpha:7450'], { connections: 1 })).rejects.toThrow();
    await using second = await startTreeServer('alpha', 7450);
    expect(second.pid).toBeGreaterThan(0);
    await using fresh = await startLines('legacy', ['alpha:7450'], { connections: 2 });
    await sleep(BETWEEN_MS);
    const clients = [old, atPeer, atLegacy, atHome, ...again, fresh];
    for (const summary of await Promise.all(clients.map((client) => client.stop()))) {
      expect(summary).toMatchObject(GOOD);
      expect(summary.lines).toBeGreaterThan(10);
    }
  }, 120_000);

  it('are forgotten by the host that relays them once they end, and go on when the server comes home and leaves again', async () => {
    await using server = await startTreeServer('alpha', 7451);
    await using old = await startLines('peer', ['alpha:7451'], { connections: 2 });
    const { cell } = await move(server.pid, 'alpha', 'beta', '--forward-new');
    const short = await startLines('legacy', ['alpha:7451'], { connections: 3 });
    const long = await startLines('legacy', ['alpha:7451'], { connections: 2 });
    expect(await relayedBy('alpha')).toBe(5);
    expect(await short.stop()).toMatchObject(GOOD);
    await expect.poll(() => relayedBy('alpha'), { timeout: FORGOTTEN_MS_MAX, interval: 500 }).toBe(2);
    const near = await startLines('alpha', ['alpha:7451'], { connections: 2 });
    await move(cell, 'beta', 'alpha');
    expect((await ps('alpha')).cells[0]?.forwarding).toBeUndefined();
    const atHome = await startLines('peer', ['alpha:7451'], { connections: 2 });
    await sleep(BETWEEN_MS);
    expect(await relayedBy('alpha')).toBe(2);
    await move(cell, 'alpha', 'gamma');
    await sleep(BETWEEN_MS);
    await move(cell, 'gamma', 'alpha');
    await sleep(BETWEEN_MS);
    for (const client of [old, near, long, atHome]) expect(await client.stop()).toMatchObject(GOOD);
    await expect.poll(() => relayedBy('alpha'), { timeout: FORGOTTEN_MS_MAX, interval: 500 }).toBe(0);
  }, 120_000);

  it('leaves nothing behind', async () => {
    expect(await leftSince(before)).toEqual({});
  }, 120_000);
});
