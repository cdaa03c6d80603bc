/** A process moves while the one at the other end is suspended: its old host passes H2O on, and the two find each other. */
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { execOn, type LabHost } from '../fixtures/lab/hosts.ts';
import { startMovableLines, startTreeServer } from '../fixtures/load/lines.ts';
import { migrateArgs, move, osmosis } from './cli.ts';
import { imageDirectory, resume, suspend } from './suspending.ts';
import { leavesNothing } from './traces.ts';

const BETWEEN_MS = 500;
const FLOWS = 5;

leavesNothing();

describe('while the server is suspended, its client', () => {
  let images: ReturnType<typeof imageDirectory>;
  beforeAll(() => {
    images = imageDirectory();
  });
  afterAll(() => images[Symbol.dispose]());

  /** A server that goes from alpha into a file, the client on beta that `steps` moves meanwhile, and both that go on moving. */
  async function withSuspended(
    port: number,
    to: LabHost,
    steps: (client: string) => Promise<string>,
    after: (server: string, client: string) => Promise<LabHost>,
  ): Promise<void> {
    await using server = await startTreeServer('alpha', port);
    const lines = await startMovableLines('beta', [`alpha:${port}`], { connections: FLOWS, everyMs: 20 });
    const file = images.file(`server-${port}`);
    const { cell } = await suspend(server.pid, 'alpha', file);
    const client = await steps(String(lines.pid));
    expect((await resume(file, to)).flows).toEqual({ moved: FLOWS, relayed: 0, lost: 0 });
    await sleep(BETWEEN_MS);
    const at = await after(cell, client);
    await sleep(BETWEEN_MS);
    const { stdout } = await execOn(at, ['pgrep', '-f', `lines-client.py .*:${port}`]);
    expect(await lines.stop(at, Number(stdout))).toMatchObject({ ok: true, faults: [] });
  }

  const moved = async (target: string, from: LabHost, to: LabHost) => {
    const { cell, flows } = await move(target, from, to);
    expect(flows).toEqual({ moved: FLOWS, relayed: 0, lost: 0 });
    await sleep(BETWEEN_MS);
    return cell;
  };

  it('moves: the server finds it when it is resumed elsewhere, and both move on', () =>
    withSuspended(
      7670,
      'alpha',
      async (client) => {
        const dry = await osmosis(migrateArgs(client, 'beta', 'gamma', '--dry-run'));
        expect(dry.object).toMatchObject({ plan: { peers: [{ flows: FLOWS, suspended: true }] } });
        return moved(client, 'beta', 'gamma');
      },
      async (server, client) => {
        await moved(server, 'alpha', 'beta');
        await moved(client, 'gamma', 'alpha');
        return 'alpha';
      },
    ));

  it('moves twice, and the server is resumed on the host that it has come to', () =>
    withSuspended(
      7671,
      'peer' as LabHost,
      async (client) => moved(await moved(client, 'beta', 'gamma'), 'gamma', 'peer'),
      async (server) => {
        await moved(server, 'peer', 'gamma');
        return 'peer';
      },
    ));

  it('moves away and comes home', () =>
    withSuspended(
      7672,
      'gamma',
      async (client) => moved(await moved(client, 'beta', 'gamma'), 'gamma', 'beta'),
      async (server) => {
        await moved(server, 'gamma', 'alpha');
        return 'beta';
      },
    ));
});
