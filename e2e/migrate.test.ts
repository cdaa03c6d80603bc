/** The main job, from the peers' side: every byte once, in order, no reset, while traffic runs; and one owner. */
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { execOn, spawnOn } from '../fixtures/lab/hosts.ts';
import {
  startRedisLoad,
  startStreamClient,
  startStreamServer,
  untilListening,
} from '../fixtures/load/control.ts';
import { endEverywhere } from '../fixtures/load/processes.ts';
import { move, osmosis } from './cli.ts';
import { leftSince, type Traces, traces } from './traces.ts';

const BETWEEN_MS = 500;
/** What is said through a move has arrived by then. */
const SAID_MS_MAX = 20_000;

describe('a numbered stream in both directions', () => {
  let before: Traces;
  beforeAll(async () => {
    before = await traces();
  });

  it('moves to two hosts and back home under load', async () => {
    await using server = await startStreamServer('alpha');
    await using client = await startStreamClient({ server: 'alpha', connections: 50, everyMs: 10 });
    const first = await move(server.pid, 'alpha', 'beta');
    // The client's control connection moves along.
    expect(first.flows).toEqual({ moved: 51, relayed: 0, lost: 0 });
    expect(await server.locate()).toEqual([{ host: 'beta', pid: first.pid }]);
    await sleep(BETWEEN_MS);
    expect((await move(first.cell, 'beta', 'gamma')).flows.moved).toBe(51);
    await sleep(BETWEEN_MS);
    expect((await move(first.cell, 'gamma', 'alpha')).flows.moved).toBe(51);
    expect((await server.locate()).map(({ host }) => host)).toEqual(['alpha']);
    await sleep(BETWEEN_MS);
    const summary = await client.stop();
    expect(summary).toMatchObject({ ok: true, resets: 0, out_of_order: 0 });
    expect(summary.bytes_in).toBeGreaterThan(0);
  });

  it('moves at full speed, with full buffers both ways', async () => {
    await using server = await startStreamServer('alpha', { port: 7101 });
    await using client = await startStreamClient({
      server: 'alpha',
      port: 7101,
      connections: 8,
      everyMs: 0,
      burstBytes: 65_536,
    });
    const { cell } = await move(server.pid, 'alpha', 'beta');
    await sleep(BETWEEN_MS);
    await move(cell, 'beta', 'alpha');
    await sleep(BETWEEN_MS);
    expect(await client.stop()).toMatchObject({ ok: true, resets: 0, out_of_order: 0 });
  });

  it('keeps connections that say nothing', async () => {
    await using server = await startStreamServer('alpha', { port: 7102 });
    await using client = await startStreamClient({
      server: 'alpha',
      port: 7102,
      connections: 20,
      traffic: 'idle',
    });
    await move(server.pid, 'alpha', 'beta');
    await client.ask();
    await sleep(BETWEEN_MS);
    expect(await client.stop()).toMatchObject({ ok: true, resets: 0 });
  });

  it('leaves nothing behind once the servers have ended', async () => {
    expect(await leftSince(before)).toEqual({});
  });
});

describe('redis', () => {
  afterAll(() => endEverywhere('^redis-server .*:7003'));

  it('moves, and a new server takes its old port at once', async () => {
    const argv = [
      'redis-server',
      '--port',
      '7003',
      '--bind',
      '0.0.0.0',
      '--protected-mode',
      'no',
      '--save',
      '',
    ];
    const { pid } = await spawnOn('alpha', argv);
    await untilListening('alpha', 7003);
    await using load = await startRedisLoad({ server: 'alpha', port: 7003, connections: 60 });
    await move(pid, 'alpha', 'beta');
    const second = await spawnOn('alpha', argv);
    await untilListening('alpha', 7003);
    const { stdout } = await execOn('peer', ['redis-cli', '-h', '10.77.1.2', '-p', '7003', 'info', 'server']);
    expect(stdout).toContain(`process_id:${second.pid}`);
    await sleep(BETWEEN_MS);
    expect(await load.stop()).toMatchObject({ ok: true, resets: 0 });
  });
});

describe('other real servers', () => {
  it('memcached keeps a session with its data', async () => {
    const { pid } = await spawnOn('alpha', [
      'memcached',
      '-u',
      'root',
      '-l',
      '0.0.0.0',
      '-p',
      '7004',
      '-t',
      '2',
    ]);
    await untilListening('alpha', 7004);
    const session =
      "(printf 'set k 0 0 1\\r\\n1\\r\\n'; sleep 4; printf 'get k\\r\\n'; sleep 1) | nc -q 2 10.77.1.2 7004 > /tmp/memcached.out";
    await spawnOn('peer', ['sh', '-c', session]);
    await sleep(BETWEEN_MS);
    await move(pid, 'alpha', 'beta');
    const said = async () => (await execOn('peer', ['cat', '/tmp/memcached.out'])).stdout;
    await expect.poll(said, { timeout: SAID_MS_MAX }).toContain('VALUE k 0 1');
    expect(await said()).toContain('STORED');
    await endEverywhere('^memcached .*7004');
  });

  it('an MQTT subscriber gets every message through the move of its broker', async () => {
    await Promise.all(
      (['alpha', 'beta'] as const).map((host) =>
        execOn(host, [
          'sh',
          '-c',
          'printf "user root\\nlistener 7005 0.0.0.0\\nallow_anonymous true\\n" > /tmp/mosquitto-7005.conf',
        ]),
      ),
    );
    const { pid } = await spawnOn('alpha', ['mosquitto', '-c', '/tmp/mosquitto-7005.conf']);
    await untilListening('alpha', 7005);
    await spawnOn('peer', ['mosquitto_sub', '-h', '10.77.1.2', '-p', '7005', '-t', 'n', '-q', '1'], {
      logFile: '/tmp/mqtt.out',
    });
    await spawnOn('peer', [
      'sh',
      '-c',
      'for i in $(seq 1 60); do echo $i; sleep 0.1; done | mosquitto_pub -h 10.77.1.2 -p 7005 -t n -q 1 -l',
    ]);
    await sleep(1_000);
    await move(pid, 'alpha', 'beta');
    const got = async () => (await execOn('peer', ['cat', '/tmp/mqtt.out'])).stdout.split('\n');
    await expect.poll(async () => (await got()).at(-1), { timeout: SAID_MS_MAX }).toBe('60');
    const messages = await got();
    await execOn('peer', ['pkill', '-f', 'mosquitto_sub .*7005'], { reject: false });
    await endEverywhere('^mosquitto .*7005');
    expect(messages).toEqual(Array.from({ length: 60 }, (_, index) => String(index + 1)));
  });
});

describe('osmosis run', () => {
  it('starts a cell that moves by its name', async () => {
    const started = await osmosis([
      'run',
      '--on',
      'ssh://alpha',
      '--name',
      'sleeper',
      '--json',
      '--',
      'sleep',
      '1000',
    ]);
    expect(started.object).toMatchObject({ ok: true, cell: 'sleeper' });
    const { pid } = await move('sleeper', 'alpha', 'beta');
    const listed = await osmosis(['ps', 'ssh://beta', '--json']);
    expect(JSON.stringify(listed.object)).toContain('"name":"sleeper"');
    await execOn('beta', ['kill', String(pid)]);
  });
});
