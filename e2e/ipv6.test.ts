/** IPv6, and both families on one socket: the main job as over IPv4. */
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { execOn, LAB_HOSTS, LAB_HOSTS6, spawnOn } from '../fixtures/lab/hosts.ts';
import {
  startRedisLoad,
  startStreamClient,
  startStreamServer,
  untilListening,
} from '../fixtures/load/control.ts';
import { endEverywhere } from '../fixtures/load/processes.ts';
import { move } from './cli.ts';
import { leftSince, type Traces, traces } from './traces.ts';

const BETWEEN_MS = 500;
/** Longer than a neighbour entry or a queue lives by accident. */
const IDLE_MS = 2_000;

describe('IPv6', () => {
  let before: Traces;
  beforeAll(async () => {
    before = await traces();
  });
  afterAll(() => endEverywhere('^redis-server .*:7123'));

  it('a numbered stream both ways moves to two hosts and back home', async () => {
    await using server = await startStreamServer('alpha', { port: 7120, listen: LAB_HOSTS6.alpha });
    await using client = await startStreamClient({
      server: LAB_HOSTS6.alpha,
      port: 7120,
      connections: 50,
      everyMs: 10,
    });
    const { cell, flows, pid } = await move(server.pid, 'alpha', 'beta');
    expect(flows).toEqual({ moved: 51, relayed: 0, lost: 0 });
    // What came early has waited: nobody said in the cell's name that it is there.
    const counters = [
      'nsenter',
      '-t',
      `${pid}`,
      '-n',
      'grep',
      'OutNeighborAdvertisements',
      '/proc/thread-self/net/snmp6',
    ];
    expect((await execOn('beta', counters)).stdout.trim()).toMatch(/\s0$/);
    await sleep(BETWEEN_MS);
    await move(cell, 'beta', 'gamma');
    await sleep(BETWEEN_MS);
    await move(cell, 'gamma', 'alpha');
    await sleep(BETWEEN_MS);
    const summary = await client.stop();
    expect(summary).toMatchObject({ ok: true, resets: 0, out_of_order: 0 });
    expect(summary.bytes_in).toBeGreaterThan(0);
  });

  it('one dual-stack socket serves clients of both families at full speed', async () => {
    await using server = await startStreamServer('alpha', { port: 7121, listen: '::' });
    const loads = [LAB_HOSTS.alpha, LAB_HOSTS6.alpha].map((address) =>
      startStreamClient({ server: address, port: 7121, connections: 4, everyMs: 0, burstBytes: 65_536 }),
    );
    await using four = await (loads[0] as (typeof loads)[number]);
    await using six = await (loads[1] as (typeof loads)[number]);
    const { cell, flows } = await move(server.pid, 'alpha', 'beta');
    expect(flows).toEqual({ moved: 10, relayed: 0, lost: 0 });
    await sleep(BETWEEN_MS);
    await move(cell, 'beta', 'gamma');
    await sleep(BETWEEN_MS);
    for (const client of [four, six])
      expect(await client.stop()).toMatchObject({ ok: true, resets: 0, out_of_order: 0 });
  });

  it('keeps connections that say nothing', async () => {
    await using server = await startStreamServer('alpha', { port: 7122, listen: '::' });
    await using client = await startStreamClient({
      server: LAB_HOSTS6.alpha,
      port: 7122,
      connections: 20,
      traffic: 'idle',
    });
    await move(server.pid, 'alpha', 'beta');
    await sleep(IDLE_MS);
    client.ask();
    await sleep(BETWEEN_MS);
    expect(await client.stop()).toMatchObject({ ok: true, resets: 0 });
  });

  it('redis moves, and a new server takes its old port at once', async () => {
    const argv = ['redis-server', '--port', '7123', '--bind', '::', '--protected-mode', 'no', '--save', ''];
    const { pid } = await spawnOn('alpha', argv);
    await untilListening('alpha', 7123);
    await using load = await startRedisLoad({
      server: LAB_HOSTS6.alpha,
      port: 7123,
      connections: 60,
    });
    await move(pid, 'alpha', 'beta');
    const second = await spawnOn('alpha', argv);
    await untilListening('alpha', 7123);
    const { stdout } = await execOn('peer', [
      'redis-cli',
      '-h',
      LAB_HOSTS6.alpha,
      '-p',
      '7123',
      'info',
      'server',
    ]);
    expect(stdout).toContain(`process_id:${second.pid}`);
    await sleep(BETWEEN_MS);
    expect(await load.stop()).toMatchObject({ ok: true, resets: 0 });
  });

  it('leaves nothing behind once the servers have ended', async () => {
    await endEverywhere('^redis-server .*:7123');
    expect(await leftSince(before)).toEqual({});
  });
});
