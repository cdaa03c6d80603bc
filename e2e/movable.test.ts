/** `osmosis run` keeps programs movable that are not so by themselves: a current Node has an io_uring, which CRIU can't save. */
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, describe, expect, it } from 'vitest';
import { EXIT_STATUS } from '../agent/error.ts';
import { untilListening } from '../fixtures/load/control.ts';
import { startLines } from '../fixtures/load/lines.ts';
import { endEverywhere } from '../fixtures/load/processes.ts';
import { migrateArgs, move, osmosis } from './cli.ts';
import { leavesNothing } from './traces.ts';

const PORT = 7870;
const BETWEEN_MS = 300;
const CONNECTIONS = 8;
/** Reads a file as well: that is what Node uses its io_uring for, where it does. */
const SERVER = `require('node:fs').promises.readFile('/etc/hostname').then(() =>
  require('node:net').createServer((socket) => socket.pipe(socket)).listen(${PORT}, '0.0.0.0'))`;

async function runNode(...options: string[]): Promise<Record<string, unknown>> {
  const run = ['run', '--on', 'ssh://alpha', '--name', 'node-echo', ...options, '--json'];
  const { object } = await osmosis([...run, '--', 'node', '-e', SERVER]);
  expect(object).toMatchObject({ ok: true, cell: 'node-echo' });
  await untilListening('alpha', PORT);
  return object;
}

describe('osmosis run', () => {
  leavesNothing();
  afterEach(() => endEverywhere(`createServer.*${PORT}`));

  it('a Node server moves, with its connections, and says what was denied to it', async () => {
    expect(await runNode()).toMatchObject({ io_uring: 'denied', mptcp: 'off' });
    await using client = await startLines('peer', [`alpha:${PORT}`], { connections: CONNECTIONS });
    expect((await move('node-echo', 'alpha', 'beta')).flows).toEqual({
      moved: CONNECTIONS,
      relayed: 0,
      lost: 0,
    });
    await sleep(BETWEEN_MS);
    expect((await move('node-echo', 'beta', 'gamma')).flows.moved).toBe(CONNECTIONS);
    await sleep(BETWEEN_MS);
    expect(await client.stop()).toMatchObject({ ok: true, faults: [] });
  });

  it('with --as-is it has its io_uring, and is refused by name before anything is touched', async () => {
    expect(await runNode('--as-is')).toMatchObject({ io_uring: 'allowed', mptcp: 'as it is' });
    const { object, exitCode } = await osmosis(migrateArgs('node-echo', 'alpha', 'beta'));
    expect(object).toMatchObject({ ok: false, code: 'PREFLIGHT', owner: 'source' });
    expect(object.message).toContain('io_uring');
    expect(exitCode).toBe(EXIT_STATUS.PREFLIGHT);
  });
});
