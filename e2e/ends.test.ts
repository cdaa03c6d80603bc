/** The two ends of a connection, wherever they are: on one host or two, in cells or not, one moving after the other or both. */
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { execOn, type LabHost } from '../fixtures/lab/hosts.ts';
import { startMovableLines, startTreeServer } from '../fixtures/load/lines.ts';
import { type Moved, move } from './cli.ts';
import { leavesNothing } from './traces.ts';

const BETWEEN_MS = 400;

leavesNothing();

/** Lines and back between a client and a server, both of which can move. */
async function withPair(
  { server: serverHost, client: clientHost, port }: { server: LabHost; client: LabHost; port: number },
  steps: (pair: { server: string; client: string }) => Promise<LabHost>,
  address: LabHost | '127.0.0.1' | '[::1]' = serverHost,
): Promise<void> {
  const listen = address === '[::1]' ? '::' : '0.0.0.0';
  await using server = await startTreeServer(serverHost, port, 'single', listen);
  const client = await startMovableLines(clientHost, [`${address as string}:${port}`], {
    connections: 10,
    everyMs: 20,
  });
  const at = await steps({ server: String(server.pid), client: String(client.pid) });
  await sleep(BETWEEN_MS);
  const { stdout } = await execOn(at, ['pgrep', '-f', `lines-client.py .*:${port}`]);
  expect(await client.stop(at, Number(stdout))).toMatchObject({ ok: true, faults: [] });
}

/** Moves and lets the lines go on for a while. */
async function hop(target: string, from: LabHost, to: LabHost): Promise<Moved> {
  const moved = await move(target, from, to);
  expect(moved.flows).toEqual({ moved: 10, relayed: 0, lost: 0 });
  await sleep(BETWEEN_MS);
  return moved;
}

describe('both ends', () => {
  it('move, one after the other, and on', () =>
    withPair({ server: 'alpha', client: 'peer', port: 7400 }, async (pair) => {
      const server = await hop(pair.server, 'alpha', 'beta');
      const client = await hop(pair.client, 'peer', 'gamma');
      await hop(server.cell, 'beta', 'alpha');
      await hop(client.cell, 'gamma', 'beta');
      await hop(server.cell, 'alpha', 'gamma');
      await hop(client.cell, 'beta', 'peer');
      return 'peer';
    }));

  it('move at the same time', () =>
    withPair({ server: 'alpha', client: 'peer', port: 7401 }, async (pair) => {
      const [server, client] = await Promise.all([
        hop(pair.server, 'alpha', 'beta'),
        hop(pair.client, 'peer', 'gamma'),
      ]);
      await Promise.all([hop(server.cell, 'beta', 'gamma'), hop(client.cell, 'gamma', 'beta')]);
      return 'beta';
    }));
});

describe('a peer on the destination', () => {
  it('stays while the server comes to it and leaves again', () =>
    withPair({ server: 'alpha', client: 'beta', port: 7402 }, async (pair) => {
      const { cell } = await hop(pair.server, 'alpha', 'beta');
      await hop(cell, 'beta', 'gamma');
      await hop(cell, 'gamma', 'beta');
      await hop(cell, 'beta', 'alpha');
      return 'beta';
    }));

  it('moves away from the server that has come', () =>
    withPair({ server: 'alpha', client: 'beta', port: 7403 }, async (pair) => {
      await hop(pair.server, 'alpha', 'beta');
      const { cell } = await hop(pair.client, 'beta', 'gamma');
      await hop(cell, 'gamma', 'alpha');
      await hop(cell, 'alpha', 'beta');
      return 'beta';
    }));
});

const OVER_ITS_ADDRESS = ["over the host's address", 7410, 'alpha'] as const;
const OVER_LOOPBACK = ['over loopback', 7420, '127.0.0.1'] as const;
const OVER_LOOPBACK6 = ['over IPv6 loopback', 7430, '[::1]'] as const;

describe('a peer on the source', () => {
  it.each([OVER_ITS_ADDRESS, OVER_LOOPBACK])(
    '%s: stays while the server leaves, goes on and comes home',
    (_how, port, address) =>
      withPair(
        { server: 'alpha', client: 'alpha', port },
        async (pair) => {
          const { cell } = await hop(pair.server, 'alpha', 'beta');
          await hop(cell, 'beta', 'gamma');
          await hop(cell, 'gamma', 'alpha');
          return 'alpha';
        },
        address,
      ),
  );

  it.each([OVER_ITS_ADDRESS, OVER_LOOPBACK6])(
    '%s: leaves while the server stays, and follows it later',
    (_how, port, address) =>
      withPair(
        { server: 'alpha', client: 'alpha', port: port + 1 },
        async (pair) => {
          const client = await hop(pair.client, 'alpha', 'beta');
          const server = await hop(pair.server, 'alpha', 'beta');
          await hop(client.cell, 'beta', 'gamma');
          await hop(server.cell, 'beta', 'alpha');
          await hop(client.cell, 'gamma', 'alpha');
          return 'alpha';
        },
        address,
      ),
  );
});
