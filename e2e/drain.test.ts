/**
 * MOVE's own experiment: three Redis behind HAProxy with hundreds of sessions, subscriptions, blocking reads and open
 * transactions among them. Each host in turn is drained, restarted and refilled, and no session ever fails. Then the same
 * with what HAProxy has for it: `set server state maint`, and a restart of the server.
 */
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { EXIT_STATUS } from '../agent/error.ts';
import { execOn, LAB_HOSTS, restartHost, spawnOn } from '../fixtures/lab/hosts.ts';
import { type RedisLoad, startRedisLoad, untilListening } from '../fixtures/load/control.ts';
import { endEverywhere } from '../fixtures/load/processes.ts';
import { move, osmosis, statusOf } from './cli.ts';
import { leavesNothing } from './traces.ts';

const HOSTS = ['alpha', 'beta', 'gamma'] as const;
type Host = (typeof HOSTS)[number];
/** The same on each: after a drain two of them share a host. */
const REDIS_PORT = 7300;
const PROXY_PORTS = { alpha: 7301, beta: 7302, gamma: 7303 } as const;
const STATS_PORT = 7309;
const SESSIONS_EACH = 70;
const CONFIG = '/tmp/drain-haproxy.cfg';
const REDIS_PATTERN = `^redis-server .*:${REDIS_PORT}`;
const BETWEEN_MS = 500;
/** A look costs a whole command. */
const LOOK_MS = 500;
/** Three drains, three restarts and three moves. */
const CASE_MS_MAX = 300_000;

const cellOf = (host: Host) => `redis-${host}`;
const othersOf = (host: Host) => HOSTS.filter((other) => other !== host);
const toOthers = (host: Host) => othersOf(host).map((other) => `ssh://${other}`);

/** One backend of three servers; a port for each that prefers it, as session affinity would. */
function proxyConfig(): string {
  return [
    'global',
    `  stats socket ipv4@127.0.0.1:${STATS_PORT} level admin`,
    'defaults',
    '  mode tcp',
    '  timeout connect 5s',
    '  timeout client 1h',
    '  timeout server 1h',
    'frontend sessions',
    ...HOSTS.map((host) => `  bind :${PROXY_PORTS[host]}`),
    '  default_backend redis',
    'backend redis',
    ...HOSTS.map((host) => `  use-server ${host} if { dst_port ${PROXY_PORTS[host]} }`),
    ...HOSTS.map((host) => `  server ${host} ${LAB_HOSTS[host]}:${REDIS_PORT}`),
    '',
  ].join('\n');
}

async function startRedisCell(host: Host): Promise<void> {
  const redis = [
    'redis-server',
    '--port',
    `${REDIS_PORT}`,
    '--bind',
    '0.0.0.0',
    '--protected-mode',
    'no',
    '--save',
    '',
  ];
  const labels = ['--label', 'app=redis', '--label', 'prefer-apart=redis'];
  const { exitCode, stderr } = await osmosis([
    'run',
    '--on',
    `ssh://${host}`,
    '--name',
    cellOf(host),
    ...labels,
    '--',
    ...redis,
  ]);
  expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr: '' });
  await untilListening(host, REDIS_PORT);
}

const startLoads = () =>
  Promise.all(
    HOSTS.map((host) =>
      startRedisLoad({ server: 'peer', port: PROXY_PORTS[host], on: 'legacy', connections: SESSIONS_EACH }),
    ),
  );
const stopLoads = (loads: readonly RedisLoad[]) => Promise.all(loads.map((load) => load.stop()));
const openIn = async (loads: readonly RedisLoad[], name: string) =>
  (await Promise.all(loads.map((load) => load.mark(name)))).map(({ connections_open, faults }) => ({
    connections_open,
    faults,
  }));
const ALL_OPEN = HOSTS.map(() => ({ connections_open: SESSIONS_EACH, faults: 0 }));

type Status = { cells: { name: string; placement: Record<string, string> }[] };
const cellsOn = async (host: Host) => (await statusOf<Status>(host)).cells.map(({ name }) => name).sort();
const lines = (stdout: string) =>
  stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Record<string, unknown>);

describe('three Redis behind HAProxy', () => {
  leavesNothing();
  beforeAll(async () => {
    await Promise.all(HOSTS.map(startRedisCell));
    await execOn('peer', ['tee', CONFIG], { input: proxyConfig() });
    await spawnOn('peer', ['haproxy', '-db', '-f', CONFIG]);
    await untilListening('peer', STATS_PORT);
  });
  afterAll(async () => {
    for (const host of HOSTS) await osmosis(['uncordon', `ssh://${host}`]);
    await endEverywhere(REDIS_PATTERN);
    await endEverywhere(`^haproxy .*${CONFIG}`, ['peer']);
  });

  it('a dry run says what would go where, and touches nothing', async () => {
    const { exitCode, stdout } = await osmosis([
      'drain',
      'ssh://alpha',
      '--to',
      toOthers('alpha').join(),
      '--dry-run',
      '--json',
    ]);
    expect(exitCode).toBe(0);
    const [plan, result] = lines(stdout);
    expect(plan).toMatchObject({
      event: 'plan',
      host: 'ssh://alpha',
      cells: [{ cell: 'redis-alpha', notes: ['beside another of prefer-apart=redis'] }],
    });
    expect(result).toEqual({ ok: true, dry_run: true, host: 'ssh://alpha' });
    expect(await cellsOn('alpha')).toEqual(['redis-alpha']);
    expect((await osmosis(['drain', '--status', 'ssh://alpha', '--json'])).object).toMatchObject({
      cordon: null,
    });
  });

  it(
    'each host is drained, restarted and refilled, and no session fails',
    async () => {
      const loads = await startLoads();
      try {
        await sleep(BETWEEN_MS);
        for (const host of HOSTS) {
          const drained = await osmosis([
            'drain',
            `ssh://${host}`,
            '--to',
            toOthers(host).join(),
            '--yes',
            '--json',
          ]);
          expect({ status: drained.exitCode, ...drained.object }).toMatchObject({
            status: 0,
            ok: true,
            end: 'done',
            cells: [
              {
                cell: cellOf(host),
                state: 'moved',
                from: `ssh://${host}`,
                flows: { moved: SESSIONS_EACH, relayed: 0, lost: 0 },
              },
            ],
          });
          expect(await cellsOn(host)).toEqual([]);
          await restartHost(host);
          expect(await openIn(loads, `${host}-restarted`)).toEqual(ALL_OPEN);

          // It stays cordoned, whatever happens to it meanwhile.
          const [{ to } = { to: '' }] = drained.object.cells as { to: string }[];
          const there = to.replace('ssh://', '') as Host;
          const refused = await osmosis([
            'migrate',
            cellOf(host),
            '--from',
            to,
            '--to',
            `ssh://${host}`,
            '--json',
          ]);
          expect(refused.object).toMatchObject({ ok: false, code: 'PREFLIGHT', owner: 'source' });
          expect((await osmosis(['uncordon', `ssh://${host}`, '--json'])).object).toMatchObject({
            changed: true,
          });
          expect(await move(cellOf(host), there, host)).toMatchObject({
            flows: { moved: SESSIONS_EACH, lost: 0 },
          });
          expect(await cellsOn(host)).toEqual([cellOf(host)]);
          expect(await openIn(loads, `${host}-refilled`)).toEqual(ALL_OPEN);
        }
      } finally {
        const summaries = await stopLoads(loads);
        for (const { faults, gaps: _, ...summary } of summaries)
          expect({ faults, ...summary }).toMatchObject({
            ok: true,
            faults: [],
            connections_open: SESSIONS_EACH,
          });
      }
    },
    CASE_MS_MAX,
  );

  it('with `set server state maint` and a restart of the server every session of that server fails', async () => {
    const loads = await startLoads();
    const proxy = (command: string) =>
      execOn('peer', ['socat', '-', `TCP:127.0.0.1:${STATS_PORT}`], { input: `${command}\n` });
    await sleep(BETWEEN_MS);
    await proxy('set server redis/alpha state maint');
    await endEverywhere(REDIS_PATTERN, ['alpha']);
    await startRedisCell('alpha');
    await proxy('set server redis/alpha state ready');
    await sleep(BETWEEN_MS);
    const [alpha, ...others] = await stopLoads(loads);
    expect(alpha).toMatchObject({ ok: false, connections_open: 0 });
    for (const other of others) expect(other).toMatchObject({ ok: true, connections_open: SESSIONS_EACH });
  });
});

describe('what stands in the way', () => {
  leavesNothing();
  const run = (...args: string[]) => osmosis(['drain', 'ssh://alpha', ...args]);
  beforeAll(async () => {
    for (const name of ['one', 'two'])
      await osmosis([
        'run',
        '--on',
        'ssh://alpha',
        '--name',
        name,
        '--label',
        'anti-affinity=pair',
        '--',
        'sleep',
        '4000',
      ]);
  });
  afterAll(async () => {
    for (const host of HOSTS) await osmosis(['uncordon', `ssh://${host}`]);
    await endEverywhere('^sleep 4000');
  });

  it('refuses what it does not understand, before anything is touched', async () => {
    for (const args of [[], ['--to', 'ssh://alpha'], ['--to', 'nowhere'], ['--to', 'ssh://beta']]) {
      const { exitCode } = await run(...args);
      expect(exitCode).toBe(EXIT_STATUS.USAGE);
    }
    expect((await osmosis(['drain', '--status', 'ssh://alpha', '--json'])).object).toMatchObject({
      cordon: null,
    });
  });

  it('moves what it can, says why the rest stays, and continues when run again', async () => {
    const first = await run('--to', 'ssh://beta,ssh://nowhere', '--yes', '--json');
    expect(first.exitCode).toBe(EXIT_STATUS.DRAIN_LEFT);
    expect(first.object).toMatchObject({ ok: false, code: 'DRAIN_LEFT' });
    const rows = first.object.cells as { cell: string; state: string; to?: string; message?: string }[];
    expect(rows.find(({ state }) => state === 'moved')).toMatchObject({ to: 'ssh://beta' });
    const left = rows.find(({ state }) => state === 'left');
    expect(left?.message).toContain('another cell of anti-affinity=pair');
    const refused = await run('--to', 'ssh://beta', '--yes', '--json');
    expect(refused.exitCode).toBe(EXIT_STATUS.DRAIN_REFUSED);
    const again = await run('--to', 'ssh://beta,ssh://gamma', '--yes', '--json');
    expect({ status: again.exitCode, ...again.object }).toMatchObject({
      status: 0,
      cells: [{ cell: left?.cell, state: 'moved', to: 'ssh://gamma' }],
    });
    const nothing = await run('--to', 'ssh://beta', '--yes', '--json');
    expect(nothing.object).toMatchObject({ ok: true, cells: [] });
    expect((await osmosis(['drain', '--status', 'ssh://alpha', '--json'])).object).toMatchObject({
      cells: [],
      cordon: { reason: 'drain', drain: { state: 'done' } },
    });
  });

  it('starts nothing on a cordoned host', async () => {
    const started = await osmosis(['run', '--on', 'ssh://alpha', '--json', '--', 'sleep', '4000']);
    expect(started.object).toMatchObject({ ok: false, code: 'HOST_CORDONED' });
    expect(started.exitCode).toBe(EXIT_STATUS.HOST_CORDONED);
  });

  it('goes on in the background, from the host itself, with its log', async () => {
    await osmosis(['uncordon', 'ssh://alpha']);
    const args = [
      'osmosis',
      'drain',
      '--self',
      '--to',
      'ssh://alpha,ssh://gamma',
      '--yes',
      '--detach',
      '--json',
    ];
    const { stdout } = await execOn('beta', args);
    // The first line is the plan.
    const { log } = lines(stdout).at(-1) as { log: string };
    await expect
      .poll(async () => (await osmosis(['drain', '--status', 'ssh://beta', '--json'])).object, {
        timeout: 30_000,
        interval: LOOK_MS,
      })
      .toMatchObject({
        cells: [],
        cordon: { drain: { state: 'done', cells: [{ state: 'moved', to: 'ssh://alpha' }] } },
      });
    const { stdout: said } = await execOn('beta', ['sh', '-c', `cat ${log}; stat -c %a ${log}; rm ${log}`]);
    expect(said).toContain('"end":"done"');
    expect(said).toMatch(/600$/);
  });

  it('at shutdown, as its systemd unit does, and takes cells again when it is back', async () => {
    const unit = readFileSync(new URL('../agent/systemd/osmosis-drain.service', import.meta.url), 'utf8');
    const argvOf = (key: string) => new RegExp(`^${key}=(.*)$`, 'm').exec(unit)?.[1]?.split(' ') ?? [];
    const fleet = '/etc/osmosis/fleet.yaml';
    for (const host of HOSTS) await osmosis(['uncordon', `ssh://${host}`]);
    const before = await cellsOn('alpha');
    expect(before).not.toEqual([]);
    await execOn('alpha', ['mkdir', '-p', '/etc/osmosis']);
    await execOn('alpha', ['tee', fleet], {
      input: `hosts:\n${HOSTS.map((host) => `  ${host}:\n`).join('')}`,
    });
    try {
      // As at boot: nothing to be done.
      expect((await execOn('alpha', argvOf('ExecStart'))).stdout).toContain('was not cordoned');
      const { stdout } = await execOn('alpha', argvOf('ExecStop'));
      expect(stdout).toContain('local is drained');
      expect(await cellsOn('alpha')).toEqual([]);
      const there = [...(await cellsOn('beta')), ...(await cellsOn('gamma'))];
      expect(there).toEqual(expect.arrayContaining(before));
      expect((await osmosis(['drain', '--status', 'ssh://alpha', '--json'])).object).toMatchObject({
        cordon: { reason: 'shutdown', drain: { state: 'done' } },
      });
      expect((await execOn('alpha', argvOf('ExecStart'))).stdout).toContain('takes cells again');
    } finally {
      await execOn('alpha', ['rm', '-f', fleet]);
    }
  });
});
