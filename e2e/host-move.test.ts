/** A host gets another address, twice, while its processes talk: their connections go on, and none of them is touched. */
import { setTimeout as sleep } from 'node:timers/promises';
import { execa } from 'execa';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { containerName, requireEngine } from '../fixtures/lab/engine.ts';
import { execOn, LAB_HOSTS } from '../fixtures/lab/hosts.ts';
import { startStreamClient, startStreamServer } from '../fixtures/load/control.ts';
import { startMovableLines, startTreeServer } from '../fixtures/load/lines.ts';
import { endEverywhere } from '../fixtures/load/processes.ts';
import { leftSince, type Traces, traces } from './traces.ts';

/** Networks of alpha's link: the lab's, and two more. */
type Network = 1 | 6 | 7;
/** Time with traffic in each of them. */
const THERE_MS = 1_500;
const MOVED_MS_MAX = 15_000;

const v4 = (network: Network, number: number) => `10.77.${network}.${number}`;
const v6 = (network: Network, number: number) => `fd77:0:0:${network}::${number}`;

async function ipOn(place: 'router' | 'alpha', ...lines: string[]): Promise<void> {
  const { bin } = await requireEngine();
  const input = `${lines.join('\n')}\n`;
  await execa(bin, ['exec', '-i', containerName(place), 'ip', '-force', '-batch', '-'], { input });
}

/** Where alpha is. */
let at: Network = 1;

/** As a laptop that is carried to another network: the old one is gone before the new one is there. */
async function carry(to: Network): Promise<void> {
  const from = at;
  if (from === to) return;
  at = to;
  await ipOn('router', `addr del ${v4(from, 1)}/24 dev alpha`, `addr del ${v6(from, 1)}/64 dev alpha`);
  await ipOn('alpha', `addr del ${v4(from, 2)}/24 dev eth0`, `addr del ${v6(from, 2)}/64 dev eth0`);
  await ipOn('router', `addr add ${v4(to, 1)}/24 dev alpha`, `addr add ${v6(to, 1)}/64 dev alpha nodad`);
  await ipOn(
    'alpha',
    `addr add ${v4(to, 2)}/24 dev eth0`,
    `addr add ${v6(to, 2)}/64 dev eth0 nodad`,
    `route replace default via ${v4(to, 1)}`,
    `route replace default via ${v6(to, 1)}`,
  );
}

type Kept = { cell: string; peers: { peer: string; flows: number; away: number; told: boolean }[] };

/** Said on the host itself: SSH to it is not our business here. */
async function keep(...args: string[]): Promise<Kept[]> {
  const { stdout } = await execOn('alpha', ['osmosis', 'keep', ...args, '--json']);
  return (JSON.parse(stdout) as { cells: Kept[] }).cells;
}

/** Until the flows with `peers` are kept, so many of them by another address, and the peers know. */
async function untilKept(cell: string, peers: Record<string, [flows: number, away: number]>): Promise<void> {
  const wanted = Object.entries(peers).map(([peer, [flows, away]]) => ({ peer, flows, away, told: true }));
  await vi.waitFor(
    async () => {
      const found = (await keep()).find((each) => each.cell === cell);
      for (const peer of wanted) expect(found?.peers).toContainEqual(expect.objectContaining(peer));
    },
    { timeout: MOVED_MS_MAX, interval: 100 },
  );
}

describe('a host that moves', () => {
  let before: Traces;
  beforeAll(async () => {
    before = await traces();
  });

  it('twice and back, with a server and a client over TCP: every byte once and in order', async () => {
    await using _remote = await startTreeServer('peer', 7601);
    await using server = await startStreamServer('alpha', { port: 7602 });
    await using load = await startStreamClient({ server: 'alpha', port: 7602, connections: 10 });
    const lines = await startMovableLines('alpha', ['peer:7601'], { connections: 10 });
    const cells = await keep(String(server.pid), String(lines.pid));
    const [serving = '', calling = ''] = cells.map(({ cell }) => cell);
    const all = async (isAway: boolean) => {
      // One that the load controls its server by.
      await untilKept(serving, { [LAB_HOSTS.peer]: [11, isAway ? 11 : 0] });
      await untilKept(calling, { [LAB_HOSTS.peer]: [10, isAway ? 10 : 0] });
    };
    await all(false);
    for (const to of [6, 7, 1] as const) {
      await carry(to);
      await all(to !== 1);
      await sleep(THERE_MS);
    }
    const summary = await load.stop();
    expect(summary, JSON.stringify(summary)).toMatchObject({ ok: true });
    expect(await lines.stop('alpha', lines.pid)).toMatchObject({ ok: true, faults: [] });
  });

  afterAll(async () => {
    await carry(1);
    await endEverywhere('lines-client.py');
    expect(await leftSince(before)).toEqual({});
    const { stdout } = await execOn('alpha', ['ip', '-o', 'addr', 'show', 'dev', 'lo']);
    expect(stdout.split('\n')).toHaveLength(2);
  });
});
