import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { execOn, LAB_HOSTS } from '../fixtures/lab/hosts.ts';
import { startStreamClient, startStreamServer } from '../fixtures/load/control.ts';
import { move } from './cli.ts';

/** Longer to save than the 200 ms after which a socket repeats what is not acknowledged. */
const BALLAST_MIB = 60;
/** In the time that CRIU takes to stop the process many of them say one thing, which nobody acknowledges any more. */
const CONNECTIONS = 60;
const EVERY_MS = 40;
const SETTLE_MS = 500;
const PAWS = /PAWSEstab\s+(\d+)/;

test('no peer believes a timestamp that a frozen socket made up: what the restored ones say is not old', async () => {
  await using server = await startStreamServer('alpha', { ballastMiB: BALLAST_MIB });
  await using client = await startStreamClient({
    server: LAB_HOSTS.alpha,
    connections: CONNECTIONS,
    everyMs: EVERY_MS,
  });
  await sleep(SETTLE_MS);
  const before = await rejectedAsOld();
  await move(String(server.pid), 'alpha', 'beta');
  await sleep(SETTLE_MS);
  expect(await rejectedAsOld()).toBe(before);
  expect(await client.stop()).toMatchObject({ ok: true });
}, 120_000);

/** Segments that the peer's kernel has dropped by their timestamp (RFC 7323, PAWS). */
async function rejectedAsOld(): Promise<number> {
  const { stdout } = await execOn('peer', ['nstat', '-asz', 'TcpExtPAWSEstab']);
  return Number(PAWS.exec(stdout)?.[1]);
}
