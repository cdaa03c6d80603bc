/** Move after move: what is kept for a connection does not grow, and at home nothing of it is left. */
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, it } from 'vitest';
import { LAB_HOSTS, LAB_HOSTS6 } from '../fixtures/lab/hosts.ts';
import { startStreamClient, startStreamServer } from '../fixtures/load/control.ts';
import { move, osmosis } from './cli.ts';
import { leavesNothing } from './traces.ts';

const ROUND = ['alpha', 'beta', 'gamma'] as const;
/** The last one leads home. */
const MOVES = 21;
const BETWEEN_MS = 100;
/** A look costs a whole command. */
const LOOK_MS = 500;
/** A move takes a second or two, on a busy machine five. */
const ALL_MS_MAX = 240_000;

leavesNothing();

it(
  `a dual-stack server moves ${MOVES} times in a row and is at home then, its connections plain`,
  async () => {
    await using server = await startStreamServer('alpha', { port: 7530, listen: '::' });
    const on = (address: string) =>
      startStreamClient({ server: address, port: 7530, connections: 5, everyMs: 10 });
    await using four = await on(LAB_HOSTS.alpha);
    await using six = await on(LAB_HOSTS6.alpha);
    let target = String(server.pid);
    for (let done = 0; done < MOVES; done++) {
      const [from, to] = [ROUND[done % 3], ROUND[(done + 1) % 3]];
      if (from === undefined || to === undefined) continue;
      const { cell, flows } = await move(target, from, to);
      expect(flows).toEqual({ moved: 12, relayed: 0, lost: 0 });
      target = cell;
      await sleep(BETWEEN_MS);
    }
    expect((await server.locate()).map(({ host }) => host)).toEqual(['alpha']);
    for (const host of ['alpha', 'peer'])
      await expect
        .poll(async () => (await osmosis(['datapath', `ssh://${host}`, '--json'])).object, {
          timeout: 20_000,
          interval: LOOK_MS,
        })
        .toMatchObject({ flows: [], sides: [], devices: [] });
    await sleep(BETWEEN_MS);
    for (const client of [four, six])
      expect(await client.stop()).toMatchObject({ ok: true, resets: 0, out_of_order: 0 });
  },
  ALL_MS_MAX,
);
