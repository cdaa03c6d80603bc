/** From a bare host to one that cells are moved to, another version under running traffic, and back to bare. */
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { execa } from 'execa';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { objectFile } from '../agent/datapath/object.ts';
import { EXIT_STATUS } from '../agent/error.ts';
import { execOn, SSH_CONFIG_PATH, spawnOn } from '../fixtures/lab/hosts.ts';
import { startStreamClient, startStreamServer } from '../fixtures/load/control.ts';
import { endEverywhere } from '../fixtures/load/processes.ts';
import { readPackage } from '../orchestrator/install/package-file.ts';
import { Steps } from '../orchestrator/install/steps.ts';
import { connectHost } from '../orchestrator/ssh/host.ts';
import { parseTarget } from '../orchestrator/ssh/target.ts';
import { move, osmosis } from './cli.ts';
import { leftSince, type Traces, traces } from './traces.ts';

const PACK = resolve(import.meta.dirname, '../fixtures/package/package.ts');
const UNITS = ['osmosis-agent.service', 'osmosis-drain.service'];
const PROGRAM = '/usr/local/bin/osmosis';
/** The lab's own, which is in the way. */
const AWAY = '/root/osmosis-of-the-lab';
/** A room of datagrams, a kept address of each family, and settings: as one leaves them that is killed. */
const LEFT_BY_AN_AGENT = `set -e
ip link add osm0badcafer type veth peer osm0badcaferq
ip addr add 10.99.0.1/32 dev lo label lo:osmosis
ip addr add fd99::1/128 dev lo
cd /proc/sys/net/ipv4/conf
mkdir -p /run/osmosis/kept "/run/osmosis/bpf/loopback/accept_local=$(cat lo/accept_local)"
: >"/run/osmosis/kept/setting arp_ignore=$(cat all/arp_ignore)"
: >'/run/osmosis/kept/address 10.99.0.1'
: >'/run/osmosis/kept/address fd99::1'
echo 1 >lo/accept_local
echo 1 >all/arp_ignore
`;
const LOOK_AT_SETTINGS =
  'ip -o addr show dev lo; cd /proc/sys/net/ipv4/conf; grep . lo/accept_local all/arp_ignore';
const BETWEEN_MS = 500;
const TEST_MS_MAX = 240_000;

let directory: string;
let before: Traces;
let files: string;
let settings: string;
/** Something that starts an agent again whenever it has ended, as runit and the like do. */
let supervisor: number;

/** Every path of the host that could be ours. */
async function filesOn(): Promise<string> {
  const find =
    'find / -xdev \\( -path /opt/osmosis -o -path /proc \\) -prune -o -name "*osmosis*" -print; find /run -name "*osmosis*"';
  return (await execOn('legacy', ['sh', '-c', find])).stdout;
}

async function command(name: string, ...args: string[]) {
  return osmosis([name, 'ssh://legacy', ...args, '--json']);
}

async function agentRelease(): Promise<string> {
  const { stdout } = await execOn('legacy', [
    'sh',
    '-c',
    'for p in /proc/[0-9]*; do [ "$(tr "\\0" "\\n" <$p/cmdline | tail -n 1)" = agent ] && readlink $p/exe; done; true',
  ]);
  return stdout.replace('/usr/local/lib/osmosis/releases/', '').replace('/bin/node', '').trim();
}

/** The package again, of another version, and with these files changed. */
async function variant(file: string, version: string, changes: Record<string, string> = {}): Promise<string> {
  const folder = await mkdtemp(join(directory, 'variant-'));
  await execa('tar', ['-xzf', file, '-C', folder]);
  const [top = ''] = (await execa('ls', [folder])).stdout.split('\n');
  const manifest = JSON.parse(await readFile(join(folder, top, 'package.json'), 'utf8'));
  await writeFile(join(folder, top, 'package.json'), JSON.stringify({ ...manifest, version }));
  for (const [path, text] of Object.entries(changes)) await writeFile(join(folder, top, path), text);
  const made = join(directory, `osmosis-${version}.tgz`);
  const renamed = ['--transform', `s|^${top}|osmosis-${version}|`];
  await execa('tar', ['--use-compress-program', 'gzip -1', '-cf', made, ...renamed, '-C', folder, top]);
  await rm(folder, { recursive: true });
  return made;
}

describe('a host without Osmosis', () => {
  let good: string;
  let newer: string;
  let broken: string;

  beforeAll(async () => {
    directory = await mkdtemp(join(tmpdir(), 'osmosis-install-'));
    await objectFile();
    good = join(directory, 'good.tgz');
    await execa(process.execPath, [PACK, good]);
    newer = await variant(good, '99.0.0');
    broken = await variant(good, '99.0.1', { 'agent/main.ts': 'throw new Error("broken on purpose");\n' });
    before = await traces(['alpha', 'peer', 'legacy']);
  }, TEST_MS_MAX);

  afterAll(async () => {
    if (supervisor !== undefined) await execOn('legacy', ['kill', String(supervisor)], { reject: false });
    await command('uninstall', '--force');
    await endEverywhere('stream-server.py --port 7160', ['legacy']);
    await execOn('legacy', ['mv', AWAY, PROGRAM], { reject: false });
    await rm(directory, { recursive: true, force: true });
  });

  it('is refused while it has an osmosis that was not installed so', async () => {
    const { exitCode, object } = await command('install', '--package', good);
    expect([exitCode, object.message]).toEqual([EXIT_STATUS.INSTALL, expect.stringContaining(PROGRAM)]);
    await execOn('legacy', ['mv', PROGRAM, AWAY]);
    // Of whatever the lab's own has run there before.
    await execOn('legacy', ['rm', '-rf', '/var/cache/osmosis']);
    files = await filesOn();
    settings = (await execOn('legacy', ['sh', '-c', LOOK_AT_SETTINGS])).stdout;
    ({ pid: supervisor } = await spawnOn('legacy', [
      'sh',
      '-c',
      'while :; do osmosis agent; sleep 0.3; done',
    ]));
  });

  it('has nothing of a package that was cut off, or altered on its way', async () => {
    const host = await connectHost(parseTarget('ssh://legacy'), { configFile: SSH_CONFIG_PATH });
    try {
      const steps = new Steps(host, AbortSignal.timeout(TEST_MS_MAX));
      const file = await readPackage(good);
      const cut = steps.receive({ ...file, bytes: file.bytes + 1 });
      await expect(cut).rejects.toThrow(/cut off/);
      const altered = steps.receive({
        ...file,
        sha256: file.sha256.replace(/^./, (digit) => (digit === '0' ? '1' : '0')),
      });
      await expect(altered).rejects.toThrow(/SHA-256/);
    } finally {
      await host.close();
    }
    expect(await filesOn()).toBe(files);
  });

  it(
    'has nothing of a package whose agent does not start',
    async () => {
      const dry = await command('install', '--package', good, '--supervised', '--dry-run');
      expect([dry.exitCode, dry.object]).toMatchObject([0, { dry_run: true, changed: true }]);
      const { exitCode, object } = await command('install', '--package', broken, '--supervised');
      expect([exitCode, object.message]).toEqual([
        EXIT_STATUS.INSTALL,
        expect.stringMatching(/does not answer|ends at once/),
      ]);
      expect(await filesOn()).toBe(files);
    },
    TEST_MS_MAX,
  );

  it(
    'becomes one that cells move to and from, is upgraded under traffic, and is bare again',
    async () => {
      const installed = await command('install', '--package', good, '--supervised');
      expect([installed.exitCode, installed.object]).toMatchObject([
        0,
        { ok: true, changed: true, agent: 'answers' },
      ]);
      const again = await command('install', '--package', good, '--supervised');
      expect([again.exitCode, again.object]).toMatchObject([0, { changed: false, agent: 'answers' }]);
      const doctor = await osmosis(['doctor', 'ssh://alpha', 'ssh://legacy', '--json']);
      expect(doctor.exitCode, JSON.stringify(doctor.object)).toBe(0);
      // Its agents before this one, of earlier runs, had other identities.
      const known = ['trust', 'import', 'ssh://alpha', 'ssh://peer', 'ssh://legacy', '--replace', '--json'];
      expect((await osmosis(known)).exitCode).toBe(0);

      await using server = await startStreamServer('alpha', { port: 7160 });
      await using client = await startStreamClient({
        server: 'alpha',
        port: 7160,
        connections: 20,
        everyMs: 10,
      });
      const { cell } = await move(server.pid, 'alpha', 'legacy');

      const upgraded = await command('upgrade', '--package', newer, '--supervised');
      expect([upgraded.exitCode, upgraded.object]).toMatchObject([
        0,
        { version: '99.0.0', agent: 'answers' },
      ]);
      expect(await agentRelease()).toBe(upgraded.object.release);
      const failed = await command('upgrade', '--package', broken, '--supervised');
      expect([failed.exitCode, failed.object.message]).toEqual([
        EXIT_STATUS.INSTALL,
        expect.stringMatching(/legacy runs 99\.0\.0-\w+ again/),
      ]);
      expect(await agentRelease()).toBe(upgraded.object.release);
      const refused = await command('uninstall');
      expect([refused.exitCode, refused.object.message]).toEqual([
        EXIT_STATUS.HOST_IN_USE,
        expect.stringContaining('1 cell ('),
      ]);

      await move(cell, 'legacy', 'alpha');
      await sleep(BETWEEN_MS);
      expect(await client.stop()).toMatchObject({ ok: true, resets: 0, out_of_order: 0 });
    },
    TEST_MS_MAX,
  );

  it(
    'is known again where it kept who it was, and is bare although a cell was there',
    async () => {
      await command('install', '--package', good, '--supervised');
      const kept = await command('uninstall', '--keep-identity');
      expect([kept.exitCode, kept.object]).toMatchObject([0, { kept: ['/var/lib/osmosis/trust'] }]);
      expect((await execOn('legacy', ['ls', '/var/lib/osmosis'])).stdout).toBe('trust');
      expect((await command('install', '--package', good, '--supervised')).exitCode).toBe(0);

      await using server = await startStreamServer('alpha', { port: 7161 });
      const client = await startStreamClient({
        server: 'alpha',
        port: 7161,
        connections: 2,
        traffic: 'idle',
      });
      await move(server.pid, 'alpha', 'legacy');
      expect((await command('uninstall')).exitCode).toBe(EXIT_STATUS.HOST_IN_USE);
      await execOn('legacy', ['sh', '-c', LEFT_BY_AN_AGENT]);
      const forced = await command('uninstall', '--force');
      expect([forced.exitCode, forced.object]).toMatchObject([
        0,
        { uses: [expect.stringContaining('1 cell')] },
      ]);
      // The process is the operator's to end; its init goes with the holder of its namespaces.
      await execOn('legacy', ['pkill', '-KILL', '-x', 'unshare']);
      await client.stop().catch(() => undefined);
      expect(await filesOn()).toBe(files);
      expect((await execOn('legacy', ['sh', '-c', LOOK_AT_SETTINGS])).stdout).toBe(settings);
      expect(await leftSince(before)).toEqual({});
    },
    TEST_MS_MAX,
  );
});

const VERIFIER = await execa('systemd-analyze', ['--version'], { reject: false });

describe.skipIf(VERIFIER.exitCode !== 0)('systemd (skipped where there is no systemd-analyze)', () => {
  it.each(UNITS)('takes %s', async (unit) => {
    const folder = await mkdtemp(join(tmpdir(), 'osmosis-units-'));
    try {
      for (const name of UNITS) {
        const text = await readFile(resolve(import.meta.dirname, '../agent/systemd', name), 'utf8');
        // It insists on programs that are there.
        await writeFile(join(folder, name), text.replaceAll(`=${PROGRAM} `, '=/bin/true '));
      }
      const { stderr, exitCode } = await execa('systemd-analyze', ['verify', join(folder, unit)], {
        reject: false,
      });
      const said = stderr.split('\n').filter((line) => line.includes('osmosis'));
      expect([said, exitCode]).toEqual([[], 0]);
    } finally {
      await rm(folder, { recursive: true });
    }
  });
});
