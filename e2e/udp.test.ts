/** UDP: datagrams may be lost while the process stands still, none may come twice or to the wrong place. */
import { setTimeout as sleep } from 'node:timers/promises';
import { beforeAll, describe, expect, it, vi } from 'vitest';
import { execOn, LAB_HOSTS, LAB_HOSTS6, spawnOn } from '../fixtures/lab/hosts.ts';
import { startDatagramClient, startDatagramServer } from '../fixtures/load/control.ts';
import { move } from './cli.ts';
import { expectAllAnswered } from './datagrams.ts';
import { leftSince, type Traces, traces } from './traces.ts';

const BETWEEN_MS = 500;
/** A server looks up from its work once a second. */
const ENDED_MS_MAX = 5_000;
const THERE = [['alpha', 'beta']] as const;
const ROUND = [...THERE, ['beta', 'gamma'], ['gamma', 'alpha']] as const;
const SOCKETS = 50;
const EVERY_MS = 40;
/** It talks over TCP before its first datagram. */
const IPERF_UNDER_WAY_MS = 1_500;
/** Of traffic that a busy machine may lose besides. */
const SPARE_MS = 200;

describe('datagrams', () => {
  let before: Traces;
  beforeAll(async () => {
    before = await traces();
  });

  it.each([
    ['one socket for all clients', 'IPv4', 7201, { listen: '0.0.0.0' }, LAB_HOSTS.alpha, ROUND],
    ['one socket for all clients', 'IPv6', 7202, { listen: '::' }, LAB_HOSTS6.alpha, THERE],
    ['a socket for each client', 'IPv4', 7203, { connected: true }, LAB_HOSTS.alpha, THERE],
    [
      'a socket for each client',
      'IPv6',
      7204,
      { connected: true, listen: LAB_HOSTS6.alpha },
      LAB_HOSTS6.alpha,
      ROUND,
    ],
  ])('%s, %s: 50 clients', async (_, __, port, server, address, route) => {
    await using running = await startDatagramServer('alpha', { port, ...server });
    await using client = await startDatagramClient({
      server: address,
      port,
      connected: SOCKETS / 2,
      unconnected: SOCKETS / 2,
      everyMs: EVERY_MS,
    });
    let cell: string | undefined;
    let away = 0;
    for (const [from, to] of route) {
      const moved = await move(cell ?? running.pid, from, to);
      expect(moved.flows).toEqual({ moved: SOCKETS, relayed: 0, lost: 0 });
      cell = moved.cell;
      away += moved.blackout_ms;
      await sleep(BETWEEN_MS);
    }
    const summary = await client.stop();
    expectAllAnswered(summary);
    expect(summary.received).toBeGreaterThan(0);
    // What the server's receive buffer can't take when it is back, and nothing of what is said before and after.
    expect(summary.lost_in + summary.lost_out).toBeLessThan((2 * SOCKETS * (away + SPARE_MS)) / EVERY_MS);
  });

  it('requests that are tried again are all answered, of both families at once', async () => {
    await using running = await startDatagramServer('alpha', { port: 7205, listen: '::' });
    const requests = { port: 7205, traffic: 'request', connected: 10, unconnected: 10 } as const;
    await using four = await startDatagramClient({ server: LAB_HOSTS.alpha, ...requests });
    await using six = await startDatagramClient({ server: LAB_HOSTS6.alpha, ...requests });
    const { cell, flows } = await move(running.pid, 'alpha', 'beta');
    expect(flows.moved).toBe(40);
    await sleep(BETWEEN_MS);
    await move(cell, 'beta', 'alpha');
    await sleep(BETWEEN_MS);
    for (const client of [four, six]) {
      const summary = await client.stop();
      expect(summary, summary.faults.join('\n')).toMatchObject({ ok: true, unanswered: 0 });
      expect(summary.answered).toBe(summary.requests);
      expect(summary.answered).toBeGreaterThan(100);
    }
  });

  it.each([
    ['connected', LAB_HOSTS.peer, 7208, ['--connected']],
    ['not connected', LAB_HOSTS6.peer, 7209, []],
  ])('a client that is %s moves, and its server knows nothing of it', async (_, address, port, flags) => {
    await using _server = await startDatagramServer('peer', { port, listen: '::' });
    const log = `/tmp/asker-${port}.log`;
    const argv = ['python3', '/opt/osmosis/fixtures/load/datagram-asker.py', address, String(port)];
    const { pid } = await spawnOn('alpha', [...argv, ...flags, '--log', log]);
    await sleep(BETWEEN_MS);
    const moved = await move(pid, 'alpha', 'beta');
    expect(moved.flows.moved).toBe(1);
    await sleep(BETWEEN_MS);
    await execOn('beta', ['kill', String(moved.pid)]);
    await sleep(BETWEEN_MS);
    const { stdout } = await execOn('beta', ['cat', log]);
    const counts = JSON.parse(stdout) as Record<string, number>;
    expect(counts).toMatchObject({ wrong: 0, answered: counts.asked });
    expect(counts.answered).toBeGreaterThan(50);
  });

  it('clients that speak seldom come along where the learning is long enough', async () => {
    await using running = await startDatagramServer('alpha', { port: 7210 });
    await using client = await startDatagramClient({ server: 'alpha', port: 7210, everyMs: 2_000 });
    const { flows } = await move(running.pid, 'alpha', 'beta', '--learn', '3');
    expect(flows.moved).toBe(client.connections);
    const summary = await client.stop();
    expect(summary, summary.faults.join('\n')).toMatchObject({ ok: true, unanswered: 0 });
  });

  it('what the process did not take in time is counted and reported', async () => {
    await using running = await startDatagramServer('alpha', { port: 7206 });
    await using client = await startDatagramClient({ server: 'alpha', port: 7206 });
    await execOn('alpha', ['kill', '-STOP', String(running.pid)]);
    const { datagram_bytes_lost: lost, pid } = await move(running.pid, 'alpha', 'beta');
    expect(lost).toBeGreaterThan(0);
    await execOn('beta', ['kill', '-CONT', String(pid)]);
    expect(await client.stop()).toMatchObject({ ok: true, duplicated: 0, misrouted: 0 });
  });

  it('a new server takes the old port, and serves new clients while the old ones talk to the moved one', async () => {
    await using old = await startDatagramServer('alpha', { port: 7207 });
    await using client = await startDatagramClient({ server: 'alpha', port: 7207 });
    await move(old.pid, 'alpha', 'beta');
    await using next = await startDatagramServer('alpha', { port: 7207 });
    await using other = await startDatagramClient({ server: 'alpha', port: 7207 });
    await sleep(BETWEEN_MS);
    for (const load of [client, other]) expect(await load.stop()).toMatchObject({ ok: true, misrouted: 0 });
    await execOn('alpha', ['kill', String(next.pid)]);
    await vi.waitFor(async () => {
      const { stdout } = await execOn('alpha', ['tail', '-1', next.logFile]);
      expect(JSON.parse(stdout)).toMatchObject({ counters: { clients: other.connections, foreign: 0 } });
    }, ENDED_MS_MAX);
  });

  it('iperf3, with TCP and UDP on one port, measures to the end', async () => {
    const { pid } = await spawnOn('alpha', ['iperf3', '-s', '-1', '-p', '7209']);
    const test = `iperf3 -u -c ${LAB_HOSTS.alpha} -p 7209 -t 15 -b 5M -J`;
    const running = execOn('peer', ['sh', '-c', `sleep 0.3; ${test}`]);
    await sleep(IPERF_UNDER_WAY_MS);
    expect((await move(pid, 'alpha', 'beta')).flows).toEqual({ moved: 2, relayed: 0, lost: 0 });
    const { end } = JSON.parse((await running).stdout) as { end: { sum_received: { packets: number } } };
    expect(end.sum_received.packets).toBeGreaterThan(0);
  });

  it('leaves nothing behind once the servers have ended', async () => {
    expect(await leftSince(before)).toEqual({});
  });
});
