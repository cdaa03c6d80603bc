/** `migrate --sync`: what the destination lacks of files is copied, while clients are served; nothing is replaced unasked. */
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { execOn, spawnOn } from '../fixtures/lab/hosts.ts';
import { startRedisLoad, untilListening } from '../fixtures/load/control.ts';
import { startLines } from '../fixtures/load/lines.ts';
import { endEverywhere, MOVE_HOSTS } from '../fixtures/load/processes.ts';
import { migrateArgs, move, osmosis } from './cli.ts';
import { KILL_AGENT, MARK_AND_WAIT, onMark, replaceProgram, signalAgent } from './inject.ts';
import { filesOn, shell, startFileServer } from './sync-files.ts';
import { leftSince, type Traces, traces } from './traces.ts';

const BETWEEN_MS = 300;
/** So many files of 10 MB. */
const bulk = (count: number) =>
  `mkdir -p "$0" && for i in $(seq ${count}); do head -c 10000000 /dev/urandom > "$0/$i"; done`;

type Synced = { synced: { files: number; bytes: number; delta_bytes: number; delta_ms: number } };

let before: Traces;
beforeAll(async () => {
  before = await traces();
});
afterAll(async () => {
  expect(await leftSince(before)).toEqual({});
});

describe('a server with files of its own', () => {
  const directory = '/srv/sync-own';

  it('takes along what it has in use, its log goes on, and its files stay at the source', async () => {
    // In memory, where what is written to a mapped file does not change its times.
    const data = '/dev/shm/sync-own';
    await using server = await startFileServer(7500, directory, { data, openOnly: true });
    await using client = await startLines('peer', ['alpha:7500'], { connections: 10 });
    const refused = await osmosis(migrateArgs(server.pid, 'alpha', 'beta', '--dry-run'));
    expect(refused.object).toMatchObject({ code: 'PREFLIGHT' });
    expect(refused.object.message).toContain('--sync');
    await shell('alpha', 'echo x > "$0/beside"', data);
    const { object } = await osmosis(migrateArgs(server.pid, 'alpha', 'beta', '--sync', '--dry-run'));
    const plan = object.plan as { sync: { copy: { files: number } }; checks: { message: string }[] };
    // Its interpreter, log, pages and mapped file.
    expect(plan.sync.copy.files).toBe(4);
    expect(JSON.stringify(plan.checks)).toContain('does not have open (beside)');
    expect(await filesOn('beta', directory)).toEqual([]);
    const moved = (await move(server.pid, 'alpha', 'beta', '--sync')) as unknown as Synced;
    expect(moved.synced.files).toBe(4);
    await sleep(BETWEEN_MS);
    const summary = await client.stop();
    expect(summary).toMatchObject({ ok: true, faults: [] });
    expect((await server.verdict('beta')).faults).toEqual([]);
    // What was logged at the source is what the log at the destination begins with.
    const { stdout: old } = await execOn('alpha', ['cat', `${data}/log`]);
    const { stdout: all } = await execOn('beta', ['cat', `${data}/log`]);
    expect(old.length).toBeGreaterThan(0);
    expect(all.length).toBeGreaterThan(old.length);
    expect(all.startsWith(old)).toBe(true);
  });

  it('takes a whole directory along that changes all the time, with holes, links, owners and times', async () => {
    await using server = await startFileServer(7501, directory);
    const still = `${directory}/still`;
    await shell('alpha', bulk(20), still);
    const odd = [
      ...['truncate -s 100M holes', 'ln -s ../elsewhere link', 'mkdir -m 700 mine', 'chown 33:33 mine 2'],
      ...['chmod 640 2', 'touch -d 2020-01-02 3', 'touch -h -d 2020-01-03 link'],
    ];
    await shell('alpha', `cd "$0" && ${odd.join(' && ')}`, still);
    await using client = await startLines('peer', ['alpha:7501'], { connections: 10 });
    const moved = await move(server.pid, 'alpha', 'beta', '--sync-path', directory);
    const { synced } = moved as unknown as Synced;
    expect(synced.bytes).toBeGreaterThan(200e6);
    expect(synced.bytes).toBeLessThan(290e6);
    expect(synced.delta_bytes).toBeLessThan(50e6);
    await sleep(BETWEEN_MS);
    expect(await client.stop()).toMatchObject({ ok: true, faults: [] });
    expect((await server.verdict('beta')).faults).toEqual([]);
    expect(await filesOn('beta', still)).toEqual(await filesOn('alpha', still));
    expect(Number(await shell('beta', 'du -k "$0" | cut -f1', `${still}/holes`))).toBeLessThan(100);
  });

  it('replaces what differs only where it is told to, and comes home the same way', async () => {
    await using server = await startFileServer(7502, directory);
    await shell(
      'beta',
      'mkdir -p "$0/data/spool" && echo other > "$0/data/log" && echo old > "$0/data/spool/stale"',
      directory,
    );
    const there = await filesOn('beta', directory);
    const paths = ['--sync-path', directory];
    const refused = await osmosis(migrateArgs(server.pid, 'alpha', 'beta', ...paths));
    expect(refused.object).toMatchObject({ ok: false, code: 'PREFLIGHT', owner: 'source' });
    expect(refused.object.message).toContain(`something else at ${directory}/data/log`);
    expect(await filesOn('beta', directory)).toEqual(there);
    await using client = await startLines('peer', ['alpha:7502'], { connections: 10 });
    const { cell } = await move(server.pid, 'alpha', 'beta', ...paths, '--force');
    // At home nothing is as it was, and its old files are still there.
    expect((await osmosis(migrateArgs(cell, 'beta', 'alpha', ...paths))).object.code).toBe('PREFLIGHT');
    await move(cell, 'beta', 'alpha', ...paths, '--force');
    await sleep(BETWEEN_MS);
    expect(await client.stop()).toMatchObject({ ok: true, faults: [] });
    expect((await server.verdict('alpha')).faults).toEqual([]);
    expect(await shell('beta', 'find "$0" -name ".osmosis*"', directory)).toBe('');
  });
});

it('redis with its append-only file, and no directory for it at the destination', async () => {
  const [port, directory] = [7503, '/srv/sync-redis'];
  const pattern = `^redis-server .*:${port}`;
  const flags = [
    '--save',
    '',
    '--protected-mode',
    'no',
    '--enable-debug-command',
    'yes',
    '--appendonly',
    'yes',
  ];
  const argv = (number: number, dir: string) => [
    'redis-server',
    '--port',
    String(number),
    '--dir',
    dir,
    ...flags,
  ];
  await shell('alpha', 'mkdir -p "$0"', directory);
  const { pid } = await spawnOn('alpha', argv(port, directory));
  try {
    await untilListening('alpha', port);
    await using load = await startRedisLoad({ server: 'alpha', port, connections: 30 });
    const told = await osmosis(migrateArgs(pid, 'alpha', 'beta', '--sync', '--dry-run'));
    expect(JSON.stringify(told.object)).toContain('to copy');
    await move(pid, 'alpha', 'beta', '--sync', '--sync-path', directory);
    await sleep(BETWEEN_MS);
    expect(await load.stop()).toMatchObject({ ok: true });
    // Whoever starts from these files has all that it has.
    const digest = async (number: number) =>
      await shell('beta', 'redis-cli -p "$0" debug digest', String(number));
    const live = await shell(
      'beta',
      'nsenter --net -t "$(pgrep -f "$0")" redis-cli -p 7503 debug digest',
      pattern,
    );
    await shell('beta', 'cp -a "$0" "$0-copy"', directory);
    await spawnOn('beta', argv(port + 1, `${directory}-copy`));
    await untilListening('beta', port + 1);
    await sleep(BETWEEN_MS);
    expect(live).toMatch(/^[0-9a-f]{40}$/);
    expect(await digest(port + 1)).toBe(live);
  } finally {
    await endEverywhere(pattern);
    await endEverywhere(`^redis-server .*:${port + 1}`);
    await Promise.all(MOVE_HOSTS.map((host) => execOn(host, ['rm', '-rf', directory, `${directory}-copy`])));
  }
});

it('drain takes the files of its cells along', async () => {
  await using server = await startFileServer(7509, '/srv/sync-drain', { openOnly: true });
  await execOn('alpha', [
    'osmosis',
    'keep',
    String(server.pid),
    '--name',
    'sync-drain',
    '--label',
    'app=files',
  ]);
  await using client = await startLines('peer', ['alpha:7509'], { connections: 5 });
  const drain = ['drain', 'ssh://alpha', '--to', 'ssh://beta', '--select', 'app=files', '--yes', '--json'];
  try {
    expect((await osmosis([...drain, '--dry-run'])).object).toMatchObject({ code: 'DRAIN_REFUSED' });
    expect((await osmosis([...drain, '--sync'])).object).toMatchObject({ ok: true, end: 'done' });
    expect(await client.stop()).toMatchObject({ ok: true, faults: [] });
    expect((await server.verdict('beta')).faults).toEqual([]);
  } finally {
    await osmosis(['uncordon', 'ssh://alpha']);
  }
});

it("the destination's agent is killed after the commit: the files stay, and what they replaced goes", async () => {
  const directory = '/srv/sync-committed';
  await using server = await startFileServer(7510, directory);
  await shell('beta', 'mkdir -p "$0/data" && echo mine > "$0/data/log"', directory);
  await using client = await startLines('peer', ['alpha:7510'], { connections: 5 });
  await using _slow = await replaceProgram(
    'beta',
    'criu',
    `case $1 in restore) ${MARK_AND_WAIT}; sleep 2;; esac; exec "$REAL" "$@"`,
  );
  // The destination waits for the peer's acknowledgement meanwhile, and has not let go of anything.
  const decided = "ls /var/lib/osmosis/decisions | grep -qx '[0-9a-f]*'";
  const steps = [
    `ssh peer "${signalAgent('STOP')}"`,
    `until ssh alpha "${decided}"; do sleep 0.1; done`,
    KILL_AGENT,
    `ssh peer "${signalAgent('CONT')}"`,
  ];
  await onMark('beta', steps.join('; '));
  const args = migrateArgs(server.pid, 'alpha', 'beta', '--sync-path', directory, '--force');
  expect((await osmosis(args)).object).toMatchObject({ ok: false, owner: 'destination' });
  const left = async () =>
    await shell('beta', 'find "$0" /var/lib/osmosis/syncs -name ".osmosis*" -o -path "*/syncs/*"', directory);
  await expect.poll(left, { timeout: 20_000 }).toBe('');
  expect(await client.stop()).toMatchObject({ ok: true, faults: [] });
  expect((await server.verdict('beta')).faults).toEqual([]);
});

describe('what is undone leaves the destination as it was', () => {
  const directory = '/srv/sync-undone';
  const seed =
    'mkdir -p "$0/data" "$0/bulk" && echo mine > "$0/data/log" && echo stays > "$0/only-here" && chmod 600 "$0/data/log"';

  /** `count`: files of 10 MB. */
  async function undone(
    port: number,
    count: number,
    how: (args: string[], pid: number) => Promise<unknown>,
  ): Promise<void> {
    await using server = await startFileServer(port, directory);
    await shell('alpha', bulk(count), `${directory}/bulk`);
    await shell('beta', seed, directory);
    const there = await filesOn('beta', directory);
    await using client = await startLines('peer', [`alpha:${port}`], { connections: 5 });
    await how(migrateArgs(server.pid, 'alpha', 'beta', '--sync-path', directory, '--force'), server.pid);
    await expect.poll(() => filesOn('beta', directory), { timeout: 40_000 }).toEqual(there);
    expect(await client.stop()).toMatchObject({ ok: true, faults: [] });
    expect((await server.verdict('alpha')).faults).toEqual([]);
  }

  const untilCopying = async () =>
    await shell('beta', 'until [ -e "$0/bulk/1" ]; do sleep 0.02; done', directory);

  it('where it can not be restored', async () => {
    await using _broken = await replaceProgram(
      'beta',
      'criu',
      'case $1 in restore) exit 1;; esac; exec "$REAL" "$@"',
    );
    await undone(7505, 1, async (args) => {
      expect((await osmosis(args)).object).toMatchObject({
        ok: false,
        code: 'RESTORE_FAILED',
        owner: 'source',
      });
    });
  });

  it.each(['SIGINT', 'SIGKILL'] as const)('where the first pass ends with %s', async (interrupt) => {
    await undone(7506, 6, async (args) => {
      const abort = new AbortController();
      const running = osmosis(args, { signal: abort.signal, interrupt });
      await untilCopying();
      abort.abort();
      const { object } = await running;
      if (interrupt === 'SIGINT')
        expect(object).toMatchObject({ ok: false, code: 'INTERRUPTED', phase: 'sync' });
    });
  });

  it("where the destination's agent is killed, in the first pass and in the restore", async () => {
    await undone(7507, 6, async (args) => {
      const running = osmosis(args);
      await untilCopying();
      await shell('beta', KILL_AGENT);
      expect((await running).object).toMatchObject({ ok: false, owner: 'source' });
    });
    await using _slow = await replaceProgram(
      'beta',
      'criu',
      `case $1 in restore) ${MARK_AND_WAIT};; esac; exec "$REAL" "$@"`,
    );
    await undone(7508, 1, async (args) => {
      await onMark('beta', KILL_AGENT);
      expect((await osmosis(args)).object).toMatchObject({ ok: false, owner: 'source' });
    });
  });
});
