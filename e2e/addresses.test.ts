/** Hosts with several addresses, and connections of each. */
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, it } from 'vitest';
import { execOn, LAB_HOSTS, type LabHost } from '../fixtures/lab/hosts.ts';
import { startStreamClient, startStreamServer } from '../fixtures/load/control.ts';
import { move } from './cli.ts';
import { leavesNothing } from './traces.ts';

const PORT = 7150;
const BETWEEN_MS = 400;
const SECOND = { alpha: '10.77.1.9', peer: '10.77.4.9' } as const;

leavesNothing();

async function ip(host: LabHost, ...argv: string[]): Promise<AsyncDisposable> {
  const undo = argv.map((word) => (word === 'add' ? 'del' : word));
  await execOn(host, ['ip', ...argv]);
  return { [Symbol.asyncDispose]: async () => void (await execOn(host, ['ip', ...undo], { reject: false })) };
}

it('connections of either address of the server and of the peer move, and come home', async () => {
  await using _second = await ip('alpha', 'address', 'add', `${SECOND.alpha}/24`, 'dev', 'eth0');
  await using _other = await ip('peer', 'address', 'add', `${SECOND.peer}/24`, 'dev', 'eth0');
  await using server = await startStreamServer('alpha', { port: PORT });
  const start = (address: string, connections: number) =>
    startStreamClient({ server: address, port: PORT, connections, everyMs: 10 });
  await using first = await start(LAB_HOSTS.alpha, 5);
  await using second = await start(SECOND.alpha, 3);
  const route = ['route', 'add', SECOND.alpha, 'via', '10.77.4.1', 'src', SECOND.peer];
  const chosen = await ip('peer', ...route);
  await using third = await start(SECOND.alpha, 2);
  await chosen[Symbol.asyncDispose]();
  const clients = [first, second, third];
  const { cell, flows } = await move(server.pid, 'alpha', 'beta');
  expect(flows).toEqual({ moved: 10 + clients.length, relayed: 0, lost: 0 });
  await sleep(BETWEEN_MS);
  await move(cell, 'beta', 'gamma');
  await sleep(BETWEEN_MS);
  await move(cell, 'gamma', 'alpha');
  await sleep(BETWEEN_MS);
  for (const client of clients) {
    const summary = await client.stop();
    expect(summary).toMatchObject({ ok: true, resets: 0, out_of_order: 0 });
    expect(summary.bytes_in).toBeGreaterThan(0);
  }
});
