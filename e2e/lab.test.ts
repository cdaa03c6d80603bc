import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { execa } from 'execa';
import { beforeAll, describe, expect, test } from 'vitest';
import { execOn, LAB_HOST_NAMES, LAB_HOSTS, labUp, SSH_CONFIG_PATH, spawnOn } from '../fixtures/lab/hosts.ts';

const UP_MS_MAX = 600_000;
const TICKS =
  'n=0; while :; do n=$((n + 1)); echo tick $n; echo tick $n >/tmp/$0.new; mv /tmp/$0.new /tmp/$0; sleep 0.1; done';

const lab = (...argv: string[]) =>
  execa(process.execPath, ['fixtures/lab/cli.ts', ...argv], { reject: false });

beforeAll(labUp, UP_MS_MAX);

describe('status', () => {
  test('says as one JSON object what runs', async () => {
    const { stdout, exitCode } = await lab('status', '--json');
    const status = JSON.parse(stdout);
    expect({ exitCode, up: status.up }).toEqual({ exitCode: 0, up: true });
    expect(status.hosts).toHaveLength(LAB_HOST_NAMES.length);
    expect(status.hosts).toContainEqual({
      name: 'legacy',
      address: '10.77.5.2',
      running: true,
      agent: false,
      sshd: true,
    });
  });
});

describe('exec', () => {
  test('hands on arguments, both outputs and the exit code', async () => {
    const argv = ['sh', '-c', 'echo "$1"; echo bad >&2; exit 7', 'sh', 'two  words'];
    expect(await lab('exec', 'alpha', '--', ...argv)).toMatchObject({
      stdout: 'two  words',
      stderr: 'bad',
      exitCode: 7,
    });
  });

  test('hands on input', async () => {
    const input = 'line\n'.repeat(100_000);
    const { stdout } = await execa(
      process.execPath,
      ['fixtures/lab/cli.ts', 'exec', 'beta', '--', 'wc', '-c'],
      { input },
    );
    expect(stdout).toBe(`${input.length}`);
  });

  test('tells misuse from failure', async () => {
    expect((await lab('exec', 'nowhere', '--', 'true')).exitCode).toBe(2);
    expect((await lab('exec', 'alpha', '--', 'no-such-program')).exitCode).toBe(127);
  });

  test.each(['SIGHUP', 'SIGKILL'] as const)(
    'leaves a process running that lost its caller to %s',
    async (signal) => {
      const marker = `marker-${signal}`;
      const argv = ['fixtures/lab/cli.ts', 'exec', 'gamma', '--', 'sh', '-c', TICKS, marker];
      const caller = execa(process.execPath, argv, { detached: true, reject: false, buffer: false });
      await once(caller.stdout, 'data');
      if (caller.pid === undefined) throw new Error('the caller has no pid');
      process.kill(-caller.pid, signal);
      await caller;
      const pid = (await execOn('gamma', ['pgrep', '-f', marker])).stdout;
      const said = async () => (await execOn('gamma', ['cat', `/tmp/${marker}`])).stdout;
      const before = await said();
      await sleep(500);
      const after = await said();
      expect(after).toMatch(/^tick \d+$/);
      expect(after).not.toBe(before);
      await execOn('gamma', ['kill', pid]);
    },
  );
});

describe('a background process', () => {
  test('is a session leader with nothing open but its log, which CRIU can dump', async () => {
    const { pid } = await spawnOn('alpha', ['sleep', '1000'], { logFile: '/tmp/sleep.log' });
    const { stdout } = await execOn('alpha', ['ps', '-o', 'ppid=,sid=', '-p', `${pid}`]);
    expect(stdout.trim().split(/\s+/)).toEqual(['1', `${pid}`]);
    const folder = `/run/lab-test-${pid}`;
    await execOn('alpha', ['mkdir', folder]);
    const dump = await execOn('alpha', ['criu', 'dump', '-t', `${pid}`, '-D', folder], { reject: false });
    await execOn('alpha', ['rm', '-r', folder]);
    expect(dump).toMatchObject({ exitCode: 0 });
    expect((await execOn('alpha', ['pgrep', '-x', 'sleep', '-P', '1'], { reject: false })).stdout).not.toBe(
      `${pid}`,
    );
  });
});

describe('the network', () => {
  test.each(['10.77.5.2', 'fd77:0:0:5::2'])('routes from host to host: %s', async (address) => {
    const { stdout } = await execOn('alpha', ['ping', '-c1', '-W2', address]);
    expect(stdout).toContain('ttl=63');
  });

  test('lets SSH in by name, from here and from host to host', async () => {
    const fromHere = await execa('ssh', ['-F', SSH_CONFIG_PATH, 'alpha', 'hostname']);
    const fromHost = await execOn('legacy', ['ssh', 'gamma', 'hostname']);
    expect([fromHere.stdout, fromHost.stdout]).toEqual(['alpha', 'gamma']);
  });

  test.each(Object.entries(LAB_HOSTS))('knows %s by name everywhere', async (name, address) => {
    expect((await execOn('peer', ['getent', 'ahostsv4', name])).stdout).toContain(address);
  });
});

describe('the agent', () => {
  test('comes back when it is killed', async () => {
    const pid = (await execOn('gamma', ['pgrep', '-f', 'osmosis agent'])).stdout;
    await execOn('gamma', ['kill', '-KILL', pid]);
    await expect
      .poll(async () => (await execOn('gamma', ['pgrep', '-f', 'osmosis agent'], { reject: false })).stdout, {
        timeout: 5_000,
      })
      .toMatch(/^\d+$/);
    expect((await execOn('gamma', ['pgrep', '-f', 'osmosis agent'])).stdout).not.toBe(pid);
  });
});
