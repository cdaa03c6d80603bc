/** Agents that are killed while new connections follow a cell and come to where it is published: nothing is forgotten. */
import { expect, it } from 'vitest';
import { execOn, LAB_HOSTS, type LabHost } from '../fixtures/lab/hosts.ts';
import { startLines, startTreeServer } from '../fixtures/load/lines.ts';
import { killAgents, untilAgentsBack } from './agents.ts';
import { move, osmosis } from './cli.ts';
import { leavesNothing } from './traces.ts';

const PORT = 7480;
const PUBLISHED = 7481;
const OLD = `alpha:${PORT}` as const;
const NEW = `beta:${PUBLISHED}` as const;
const FORGOTTEN_MS_MAX = 20_000;
const TOLD_MS_MAX = 10_000;
/** Scope of a relayed flow: agent/datapath/model.ts. */
const RELAY = 0xffffffff;
const GOOD = { ok: true, faults: [] };

leavesNothing();

async function relayedBy(host: LabHost): Promise<number> {
  const { object } = await osmosis(['datapath', `ssh://${host}`, '--json']);
  const { flows } = (object.datapath ?? object) as { flows: { scope: number }[] };
  return flows.filter(({ scope }) => scope === RELAY).length;
}

it("the agents of the cell's host, the old home and a peer at once", async () => {
  await using server = await startTreeServer('alpha', PORT);
  await using old = await startLines('peer', [OLD], { connections: 2 });
  const publish = ['--publish', `${PUBLISHED}=${PORT}`];
  const { cell } = await move(server.pid, 'alpha', 'beta', '--forward-new', '10s', ...publish);
  const started = () =>
    Promise.all([
      startLines('peer', [OLD, NEW], { connections: 4 }),
      startLines('legacy', [OLD, NEW], { connections: 4 }),
    ]);
  // What comes before the peer knows goes by way of the old home.
  await expect
    .poll(async () => (await osmosis(['ps', 'ssh://peer'])).stdout, { timeout: TOLD_MS_MAX })
    .toContain('new connections follow it until');
  const first = await started();
  const brief = await startLines('legacy', [OLD], { connections: 3 });
  expect(await relayedBy('alpha')).toBe(5);

  const hosts = ['alpha', 'beta', 'peer'] as const;
  await killAgents(...hosts);
  // Connections end and begin while nobody looks.
  expect(await brief.stop()).toMatchObject(GOOD);
  const meanwhile = await started();
  await untilAgentsBack(...hosts);
  const second = await started();

  const { stdout } = await osmosis(['ps', ...hosts.map((host) => `ssh://${host}`)]);
  expect(stdout).toContain(`published at tcp ${LAB_HOSTS.beta}:${PUBLISHED}`);
  expect(stdout.match(/new connections follow it until/g)).toHaveLength(2);
  expect(stdout).toContain(`new connections to tcp ${LAB_HOSTS.alpha}:${PORT} follow it`);
  const bind = `import socket; s = socket.socket(); s.bind(("0.0.0.0", ${PUBLISHED}))`;
  expect((await execOn('beta', ['python3', '-c', bind], { reject: false })).stderr).toContain('in use');
  // 2 of each `started`: the three that ended are told of, although that happened while no agent ran.
  await expect.poll(() => relayedBy('alpha'), { timeout: FORGOTTEN_MS_MAX, interval: 500 }).toBe(6);

  const moved = await move(cell, 'beta', 'gamma', '--drop-legacy');
  // Of the published ones with a host without an agent nobody could take care.
  expect(moved.flows).toEqual({ moved: 2 + 3 * 6, relayed: 0, lost: 3 * 2 });
  const again = await Promise.all([startLines('peer', [OLD]), startLines('legacy', [OLD])]);
  const clients = [old, ...[first, meanwhile, second].map(([peer]) => peer), ...again];
  for (const client of clients) expect(await client?.stop()).toMatchObject(GOOD);
  await Promise.all([first, meanwhile, second].map(([, legacy]) => legacy.stop()));
}, 120_000);
