/** The lease of --forward-new: renewed while the cell's host says so, over by itself when nobody does, and ended on demand. */
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { execOn, LAB_HOSTS, type LabHost } from '../fixtures/lab/hosts.ts';
import { startLines, startTreeServer } from '../fixtures/load/lines.ts';
import { migrateArgs, move, osmosis, statusOf } from './cli.ts';
import { signalAgent } from './inject.ts';
import { leavesNothing } from './traces.ts';

const LEASE_S = 3;
const LEASE_MS = LEASE_S * 1_000;
const PORT = 7470;
const TARGET = `alpha:${PORT}` as const;
const OVER_MS_MAX = LEASE_MS + 15_000;
const AGAIN_MS_MAX = 20_000;
const GOOD = { ok: true, faults: [] };

leavesNothing();

type Status = {
  cells: {
    forwarding?: { lease_s: number; endpoints: object[]; peers: { address: string; until: number }[] };
  }[];
  remote_cells: { follow?: { until: number; labels: { virtual: object; wire: object }[] } }[];
};

const ps = (host: LabHost) => statusOf<Status>(host);

/** Until when this host sends new connections after the cell; undefined: it does not. */
async function followsUntil(host: LabHost): Promise<number | undefined> {
  const [follow] = (await ps(host)).remote_cells.flatMap((each) => each.follow ?? []);
  return follow?.until;
}

/** Whether something answers at the old address. */
async function isReached(from: LabHost): Promise<boolean> {
  try {
    const client = await startLines(from, [TARGET], { connections: 1 });
    expect(await client.stop()).toMatchObject(GOOD);
    return true;
  } catch (error) {
    expect(String(error)).toContain('refused');
    return false;
  }
}

const reached = () => Promise.all((['peer', 'legacy'] as const).map(isReached));

describe('the lease of new connections', () => {
  it('is renewed while the agent of the cell lives, ends without it, and is begun, changed and ended', async () => {
    await using server = await startTreeServer('alpha', PORT);
    await using old = await startLines('peer', [TARGET], { connections: 2 });
    const wanted = ['--forward-new', `${LEASE_S}s`];
    const { object } = await osmosis(
      migrateArgs(server.pid, 'alpha', 'beta', ...wanted, '--publish', String(PORT), '--dry-run'),
    );
    expect(object).toMatchObject({
      ok: true,
      plan: {
        forward_new: {
          lease_s: LEASE_S,
          endpoints: [`tcp ${LAB_HOSTS.alpha}:${PORT}`],
          relays: true,
        },
        publish: [{ wire: { address: LAB_HOSTS.beta, port: PORT } }],
      },
    });
    const { cell } = await move(server.pid, 'alpha', 'beta', ...wanted);
    const movedAt = Date.now();
    const forward = (...args: string[]) =>
      osmosis(['forward', cell, '--on', 'ssh://beta', '--json', ...args]);
    await using relayed = await startLines('legacy', [TARGET], { connections: 2 });
    await sleep(2 * LEASE_MS);
    await expect.poll(reached, { timeout: AGAIN_MS_MAX, interval: 500 }).toEqual([true, true]);
    for (const host of ['alpha', 'peer'] as const) {
      const until = (await followsUntil(host)) ?? 0;
      expect(until).toBeGreaterThan(movedAt + 2 * LEASE_MS);
      expect(until).toBeLessThan(Date.now() + LEASE_MS + 1_000);
    }
    const [here] = (await ps('beta')).cells;
    expect(here?.forwarding).toMatchObject({ lease_s: LEASE_S });
    expect(here?.forwarding?.peers.map(({ address }) => address).toSorted()).toEqual([
      LAB_HOSTS.alpha,
      LAB_HOSTS.peer,
    ]);

    // Nobody renews it.
    await execOn('beta', ['sh', '-c', signalAgent('STOP')]);
    try {
      await expect.poll(reached, { timeout: OVER_MS_MAX, interval: 1_000 }).toEqual([false, false]);
      const follows = () => Promise.all([followsUntil('alpha'), followsUntil('peer')]);
      await expect.poll(follows, { timeout: OVER_MS_MAX, interval: 500 }).toEqual([undefined, undefined]);
    } finally {
      await execOn('beta', ['sh', '-c', signalAgent('CONT')]);
    }
    // The operator has not ended it: it is said again.
    await expect.poll(reached, { timeout: AGAIN_MS_MAX, interval: 500 }).toEqual([true, true]);

    const dry = await forward('--lease', '10m', '--dry-run');
    expect(dry.object).toMatchObject({ ok: true, dry_run: true, lease_s: 600 });
    expect((await ps('beta')).cells[0]?.forwarding).toMatchObject({ lease_s: LEASE_S });
    expect((await forward('--lease', '2s')).object).toMatchObject({ ok: false, code: 'USAGE' });
    expect((await forward('--lease', '10m')).object).toMatchObject({ ok: true, lease_s: 600, silent: [] });
    for (const host of ['alpha', 'peer'] as const)
      expect(await followsUntil(host)).toBeGreaterThan(Date.now() + 500_000);
    const { stdout } = await osmosis(['ps', 'ssh://alpha', 'ssh://beta']);
    expect(stdout).toContain(`new connections to tcp ${LAB_HOSTS.alpha}:${PORT} follow it, renewed for 10m`);
    expect(stdout).toContain('new connections follow it until');

    expect((await forward('--end', '--dry-run')).object).toMatchObject({ ok: true, lease_s: 0 });
    expect(await isReached('peer')).toBe(true);
    expect((await forward('--end')).object).toMatchObject({ ok: true, lease_s: 0, silent: [] });
    expect(await reached()).toEqual([false, false]);
    expect((await ps('beta')).cells[0]?.forwarding).toBeUndefined();
    for (const client of [old, relayed]) {
      const summary = await client.stop();
      expect(summary).toMatchObject(GOOD);
      expect(summary.lines).toBeGreaterThan(100);
    }
  }, 120_000);
});
