/** A process that has connected out moves: what it talks to sees nothing of it. */
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { execOn, spawnOn } from '../fixtures/lab/hosts.ts';
import { untilListening } from '../fixtures/load/control.ts';
import { startMovableLines, startTreeServer } from '../fixtures/load/lines.ts';
import { endEverywhere } from '../fixtures/load/processes.ts';
import { migrateArgs, move, osmosis } from './cli.ts';
import { leftSince, type Traces, traces } from './traces.ts';

const BETWEEN_MS = 300;

let before: Traces;
beforeAll(async () => {
  before = await traces();
});

describe('numbered lines to a server and back', () => {
  it('go on from two hosts, one after the other, and from home again: 200 connections', async () => {
    await using _server = await startTreeServer('peer', 7300);
    const client = await startMovableLines('alpha', ['peer:7300'], { connections: 200, everyMs: 100 });
    const first = await move(client.pid, 'alpha', 'beta');
    expect(first.flows).toEqual({ moved: 200, relayed: 0, lost: 0 });
    await sleep(BETWEEN_MS);
    expect((await move(first.cell, 'beta', 'gamma')).flows.moved).toBe(200);
    await sleep(BETWEEN_MS);
    const { flows, pid } = await move(first.cell, 'gamma', 'alpha');
    expect(flows.moved).toBe(200);
    await sleep(BETWEEN_MS);
    expect(await client.stop('alpha', pid)).toMatchObject({ ok: true, faults: [] });
  });

  it('go on to two servers at two hosts', async () => {
    await using _near = await startTreeServer('gamma', 7301);
    await using _far = await startTreeServer('peer', 7301);
    const client = await startMovableLines('alpha', ['peer:7301', 'gamma:7301'], { connections: 20 });
    const { flows, pid } = await move(client.pid, 'alpha', 'beta');
    expect(flows).toEqual({ moved: 20, relayed: 0, lost: 0 });
    await sleep(BETWEEN_MS);
    expect(await client.stop('beta', pid)).toMatchObject({ ok: true, faults: [] });
  });
});

describe('an MQTT subscriber in a pipeline', () => {
  const COUNT = 50;
  const FILE = '/tmp/subscribed-7302';

  it('gets every message, in order, through two moves', async () => {
    await execOn('peer', [
      'sh',
      '-c',
      'printf "user root\\nlistener 7302 0.0.0.0\\nallow_anonymous true\\n" > /tmp/mosquitto-7302.conf',
    ]);
    const broker = await spawnOn('peer', ['mosquitto', '-c', '/tmp/mosquitto-7302.conf']);
    await untilListening('peer', 7302);
    const subscriber =
      'mosquitto_sub -h 10.77.4.2 -p 7302 -t n -q 1 | while read line; do echo $line >> "$0"; done';
    const { pid } = await spawnOn('alpha', ['sh', '-c', subscriber, FILE]);
    await sleep(BETWEEN_MS);
    await spawnOn('peer', [
      'sh',
      '-c',
      `for i in $(seq 1 ${COUNT}); do echo $i; sleep 0.1; done | mosquitto_pub -h 127.0.0.1 -p 7302 -t n -q 1 -l`,
    ]);
    const first = await move(pid, 'alpha', 'beta');
    await move(first.cell, 'beta', 'gamma');
    const wait = 'i=0; until grep -sqx "$1" "$0" || [ $i = 100 ]; do i=$((i + 1)); sleep 0.1; done';
    await execOn('gamma', ['sh', '-c', wait, FILE, String(COUNT)]);
    const parts: string[] = [];
    for (const host of ['alpha', 'beta', 'gamma'] as const) {
      const { stdout } = await execOn(host, ['sh', '-c', 'cat "$0" 2>/dev/null; rm -f "$0"', FILE], {
        reject: false,
      });
      parts.push(...stdout.split('\n').filter(Boolean));
    }
    await endEverywhere('mosquitto_sub .* 7302 ');
    await execOn('peer', ['kill', String(broker.pid)]);
    expect(parts).toEqual(Array.from({ length: COUNT }, (_, index) => String(index + 1)));
  });
});

describe('a connection that is still opening', () => {
  /** Lets in one: further SYNs get no answer, until it accepts after that many seconds. */
  const SHY = `
import socket, sys, time
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("0.0.0.0", int(sys.argv[1])))
listener.listen(0)
time.sleep(float(sys.argv[2]))
held = []
while True: held.append(listener.accept())`;
  const OPENER = `
import socket, sys, time
held = []
for timeout in (5, 0):
    s = socket.socket(); s.settimeout(timeout); s.connect_ex(("10.77.4.2", int(sys.argv[1]))); held.append(s)
time.sleep(60)`;

  async function scene(port: number, acceptsAfterS: number) {
    const server = await spawnOn('peer', ['python3', '-c', SHY, String(port), String(acceptsAfterS)]);
    await untilListening('peer', port);
    const opener = await spawnOn('alpha', ['python3', '-c', OPENER, String(port)]);
    return {
      pid: opener.pid,
      [Symbol.asyncDispose]: async () => {
        await endEverywhere(`time.sleep.60. ${port}`);
        await execOn('peer', ['kill', String(server.pid)]);
      },
    };
  }

  it('is waited for', async () => {
    await using opener = await scene(7303, 0.9);
    expect((await move(opener.pid, 'alpha', 'beta')).flows.moved).toBe(2);
  });

  it('is refused by name where nobody answers it', async () => {
    await using opener = await scene(7304, 60);
    const { object } = await osmosis(migrateArgs(opener.pid, 'alpha', 'beta'));
    expect(object).toMatchObject({ ok: false, code: 'PREFLIGHT', owner: 'source' });
    expect(object.message).toContain('a connection to 10.77.4.2:7304 is still opening (SYN sent');
  });
});

afterAll(async () => {
  expect(await leftSince(before)).toEqual({});
});
