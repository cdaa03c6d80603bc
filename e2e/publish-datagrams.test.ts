/** A datagram server that is published where it has moved to, and clients of it that come and go. */
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { execOn, LAB_HOSTS, LAB_HOSTS6, type LabHost, spawnOn } from '../fixtures/lab/hosts.ts';
import { startDatagramClient, startDatagramServer } from '../fixtures/load/control.ts';
import { endEverywhere } from '../fixtures/load/processes.ts';
import { move } from './cli.ts';
import { leavesNothing } from './traces.ts';

const BETWEEN_MS = 500;
const PORT = 7490;
const GOOD = { ok: true, duplicated: 0, misrouted: 0, refused: 0, unanswered: 0 };

leavesNothing();

const client = (on: LabHost, server: string, port: number) =>
  startDatagramClient({ server, on, port, connected: 2, unconnected: 2 });

describe('a published datagram server', () => {
  it('is reached by anyone, and takes those with an agent along', async () => {
    await using server = await startDatagramServer('alpha', { port: PORT, listen: '::' });
    const old = await client('peer', LAB_HOSTS.alpha, PORT);
    const { cell } = await move(server.pid, 'alpha', 'beta', '--publish', `${PORT + 1}=${PORT}`);
    const [six, home, near, legacy] = await Promise.all([
      client('peer', LAB_HOSTS6.beta, PORT + 1),
      client('alpha', LAB_HOSTS.beta, PORT + 1),
      client('beta', LAB_HOSTS.beta, PORT + 1),
      client('legacy', LAB_HOSTS.beta, PORT + 1),
    ]);
    await sleep(BETWEEN_MS);
    expect(await legacy.stop()).toMatchObject(GOOD);
    // These have ended. Their host says so where it is asked; where it has agreed while they lived nobody asks it.
    expect(await six.stop()).toMatchObject(GOOD);
    const { flows } = await move(cell, 'beta', 'gamma', '--drop-legacy');
    expect([12, 16]).toContain(flows.moved);
    await sleep(BETWEEN_MS);
    for (const load of [old, home, near]) {
      const summary = await load.stop();
      expect(summary, summary.faults.join('\n')).toMatchObject(GOOD);
    }
  }, 120_000);
});

describe('a socket of a moved process that is closed', () => {
  /** The keeper looks three times, on a busy machine with ten seconds between. */
  const ENDED_MS_MAX = 60_000;
  const SERVICE = PORT + 2;

  it('leaves its port to others of the old host, while the process lives', async () => {
    await using _server = await startDatagramServer('peer', { port: SERVICE });
    const asker = `python3 /opt/osmosis/fixtures/load/datagram-asker.py ${LAB_HOSTS.peer} ${SERVICE} --connected`;
    const both = `${asker} --log /tmp/stays & ${asker} --log /tmp/closes & wait`;
    await using _end = { [Symbol.asyncDispose]: () => endEverywhere(`datagram-asker.py .* ${SERVICE}`) };
    const { pid } = await spawnOn('alpha', ['sh', '-c', both]);
    await sleep(BETWEEN_MS);
    const { stdout } = await execOn('alpha', ['ss', '-Hunp', `dport = :${SERVICE}`]);
    const { stdout: closing } = await execOn('alpha', ['pgrep', '-f', '^python3.*--log /tmp/closes']);
    const line = stdout.split('\n').find((each) => each.includes(`pid=${closing},`)) ?? '';
    const port = /10\.77\.1\.2:(\d+)/.exec(line)?.[1] ?? '';
    const moved = await move(pid, 'alpha', 'beta');
    expect(moved.flows.moved).toBe(2);
    await sleep(BETWEEN_MS);
    await execOn('beta', ['pkill', '-f', '^python3.*--log /tmp/closes']);
    // Somebody else at the old host has the port now, and asks the same server.
    const ask = `import socket, struct
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(1)
s.bind(("${LAB_HOSTS.alpha}", ${port}))
s.connect(("${LAB_HOSTS.peer}", ${SERVICE}))
s.send(struct.pack("<4sBxHIIII", b"OSMD", 2, 0, 0xabcdef, 0, 7, 0))
print(len(s.recv(2048)))`;
    const isAnswered = async () =>
      (await execOn('alpha', ['python3', '-c', ask], { reject: false })).stdout !== '';
    await expect.poll(isAnswered, { timeout: ENDED_MS_MAX, interval: 500 }).toBe(true);
    await execOn('beta', ['pkill', '-f', '^python3.*--log /tmp/stays']);
    await sleep(BETWEEN_MS);
    const log = JSON.parse((await execOn('beta', ['cat', '/tmp/stays'])).stdout) as Record<string, number>;
    expect(log).toMatchObject({ wrong: 0, answered: log.asked });
  }, 120_000);
});
