/** What an operator sees of a move: the metrics of both hosts before and after it, and the lines of their logs. */
import { expect, it } from 'vitest';
import { execOn, type LabHost } from '../fixtures/lab/hosts.ts';
import { startStreamClient, startStreamServer } from '../fixtures/load/control.ts';
import { METRICS_URL } from './agents.ts';
import { migrateArgs, move, osmosis } from './cli.ts';
import { leavesNothing } from './traces.ts';

const CONNECTIONS = 20;
const LOG = '/var/log/osmosis-agent.log';

type Numbers = (sample: string) => number;

/** As Prometheus would: over HTTP, from the host itself. */
async function scrape(host: LabHost): Promise<Numbers> {
  const { stdout } = await execOn(host, ['curl', '-sSf', '--max-time', '10', METRICS_URL]);
  return numbersOf(stdout);
}

function numbersOf(text: string): Numbers {
  const samples = new Map(
    text
      .split('\n')
      .filter((line) => line !== '' && !line.startsWith('#'))
      .map((line) => {
        const at = line.lastIndexOf(' ');
        return [line.slice(0, at), Number(line.slice(at + 1))] as const;
      }),
  );
  return (sample) => samples.get(sample) ?? 0;
}

const ended = (role: string, outcome: string, code: string) =>
  `osmosis_migrations_total{role="${role}",kind="move",outcome="${outcome}",code="${code}"}`;

async function linesSince(host: LabHost, since: string): Promise<Record<string, unknown>[]> {
  const { stdout } = await execOn(host, ['cat', LOG]);
  return stdout
    .split('\n')
    .filter((line) => line.startsWith('{'))
    .map((line) => JSON.parse(line) as Record<string, unknown>)
    .filter(({ time }) => String(time) >= since);
}

leavesNothing();

it('counts a move at the source, the destination and the peer, and logs its phases', async () => {
  await using server = await startStreamServer('alpha');
  await using client = await startStreamClient({ server: 'alpha', connections: CONNECTIONS, everyMs: 10 });
  const hosts = ['alpha', 'beta', 'peer'] as const;
  const before = await Promise.all(hosts.map(scrape));
  const since = new Date().toISOString();
  const moved = await move(server.pid, 'alpha', 'beta');
  const after = await Promise.all(hosts.map(scrape));
  const [alpha = 0, beta = 0, peer = 0] = [0, 1, 2];
  const grown = (host: number, sample: string) =>
    (after[host]?.(sample) ?? 0) - (before[host]?.(sample) ?? 0);

  expect(grown(alpha, ended('source', 'committed', 'none'))).toBe(1);
  expect(grown(beta, ended('destination', 'committed', 'none'))).toBe(1);
  expect(grown(alpha, 'osmosis_frozen_seconds_count{outcome="committed"}')).toBe(1);
  expect(grown(beta, 'osmosis_restored_seconds_count')).toBe(1);
  expect(grown(beta, 'osmosis_peer_acknowledged_seconds_count')).toBeGreaterThanOrEqual(1);
  const image = grown(alpha, 'osmosis_image_bytes_total{role="source"}');
  expect(image).toBeGreaterThan(0);
  expect(grown(beta, 'osmosis_image_bytes_total{role="destination"}')).toBe(image);
  expect(grown(beta, 'osmosis_cells{state="moved"}')).toBe(1);
  expect(grown(beta, 'osmosis_flows{by="peer"}')).toBe(moved.flows.moved);
  expect(grown(beta, 'osmosis_h2o_sent_total{type="move"}')).toBeGreaterThanOrEqual(1);
  expect(grown(peer, 'osmosis_h2o_received_total{type="move"}')).toBeGreaterThanOrEqual(1);
  expect(grown(peer, 'osmosis_remote_cells{state="moved"}')).toBe(1);
  expect(grown(peer, 'osmosis_remote_flows{state="moved"}')).toBe(moved.flows.moved);
  expect(after[peer]?.('osmosis_datapath_packets_total{what="translated_out"}')).toBeGreaterThan(0);
  for (const host of after) expect(host('osmosis_migrations_active{role="source"}')).toBe(0);
  expect(after[beta]?.('osmosis_image_bytes')).toBe(0);

  const told = await linesSince('alpha', since);
  const its = told.filter(({ role }) => role === 'source');
  expect(its.map(({ phase }) => phase ?? 'end')).toEqual(['prepare', 'prepare', 'freeze', 'commit', 'end']);
  expect(its.at(-1)).toMatchObject({ level: 'info', kind: 'move', frozen_ms: expect.any(Number) });
  const { migration, cell } = its[0] ?? {};
  for (const line of its) expect(line).toMatchObject({ migration, cell });
  const there = (await linesSince('beta', since)).filter((line) => line.migration === migration);
  expect(there.map(({ phase }) => phase ?? 'end')).toEqual([
    'prepare',
    'prepare',
    'restore',
    'redirect',
    'end',
  ]);

  await move(moved.cell, 'beta', 'alpha');
  expect(await client.stop()).toMatchObject({ ok: true, resets: 0, out_of_order: 0 });
});

it('counts a move that is refused, with its code, and says the same over SSH', async () => {
  await using server = await startStreamServer('alpha', { port: 7101 });
  const told = async () => numbersOf((await osmosis(['metrics', 'ssh://beta'])).stdout);
  await osmosis(['cordon', 'ssh://beta']);
  try {
    expect((await told())('osmosis_cordoned')).toBe(1);
    const { object } = await osmosis(migrateArgs(server.pid, 'alpha', 'beta'));
    expect(object).toMatchObject({ ok: false });
  } finally {
    await osmosis(['uncordon', 'ssh://beta']);
  }
  expect((await told())('osmosis_cordoned')).toBe(0);
  const { object } = await osmosis(['metrics', 'ssh://beta', '--json']);
  expect(object).toMatchObject({ ok: true, content_type: expect.stringContaining('version=0.0.4') });
});

it('answers a scrape, and nothing else, on loopback only', async () => {
  const status = async (...args: string[]) =>
    (
      await execOn('alpha', ['curl', '-s', '-o', '/dev/null', '-w', '%{http_code}', ...args], {
        reject: false,
      })
    ).stdout;
  expect(await status(METRICS_URL)).toBe('200');
  expect(await status('http://127.0.0.1:9818/')).toBe('404');
  expect(await status('-X', 'DELETE', METRICS_URL)).toBe('405');
  expect(await status('http://10.77.1.2:9818/metrics')).toBe('000');
});
