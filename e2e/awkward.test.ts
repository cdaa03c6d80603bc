/**
 * Connections at awkward moments: what each is doing when the process is frozen, and what its peer does while it stands
 * still. All of them go through one move together, so that none may harm another.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { LAB_HOSTS, spawnOn } from '../fixtures/lab/hosts.ts';
import { type AttachedLoad, attachLoad } from '../fixtures/load/attach.ts';
import { untilListening } from '../fixtures/load/control.ts';
import { endEverywhere } from '../fixtures/load/processes.ts';
import { migrateArgs, move, osmosis } from './cli.ts';
import { replaceProgram, untilMarked } from './inject.ts';
import { leftSince, type Traces, traces } from './traces.ts';

const FOLDER = '/opt/osmosis/fixtures/load';
const SETTLE_MS = 500;
/** CRIU's restore begins this much later, and so the blackout is this much longer. */
const LATE_RESTORE = 'case $1 in restore) touch /run/injected; sleep 1.2;; esac; exec "$REAL" "$@"';

type Summary = { kind: 'summary'; ok: boolean; scenes: Record<string, string> };

let before: Traces;
beforeAll(async () => {
  before = await traces();
});

async function startServer(port: number): Promise<{ pid: number } & AsyncDisposable> {
  const { pid } = await spawnOn('alpha', ['python3', `${FOLDER}/awkward-server.py`, String(port)], {});
  await untilListening('alpha', port);
  return { pid, [Symbol.asyncDispose]: () => endEverywhere(`awkward-server.py ${port}`) };
}

function startScenes(
  port: number,
  scenes: readonly string[],
): Promise<AttachedLoad<{ kind: 'tick' }, Summary>> {
  const argv = ['python3', `${FOLDER}/awkward-client.py`, LAB_HOSTS.alpha, String(port), ...scenes];
  return attachLoad('peer', argv);
}

describe('through one move, with a second of blackout', () => {
  const SCENES = {
    echo: 'a conversation that only goes on',
    half_closed_by_client: 'half-closed by the client: the server talks on',
    half_closed_by_server: 'half-closed by the server: the client talks on',
    fin_in_blackout: 'a FIN in the blackout, after the last of many bytes',
    close_in_blackout: 'a client that closes in the blackout',
    rst_in_blackout: 'a RST in the blackout: the server sees ECONNRESET',
    full_both_ways: 'full buffers both ways, nobody reads until it is over',
    zero_window_at_server: 'no window at the server',
    zero_window_at_client: 'no window at the client',
    urgent_read_before: 'urgent data that was read before',
    urgent_in_blackout: 'urgent data in the blackout',
  };
  let outcomes: Record<string, string> = {};

  beforeAll(async () => {
    await using server = await startServer(7200);
    await using _late = await replaceProgram('beta', 'criu', LATE_RESTORE);
    const client = await startScenes(7200, Object.keys(SCENES));
    const [moved] = await Promise.all([
      move(server.pid, 'alpha', 'beta'),
      untilMarked('beta').then(() => client.mark('blackout')),
    ]);
    expect(moved.flows).toEqual({ moved: Object.keys(SCENES).length + 1, relayed: 0, lost: 0 });
    expect(moved.blackout_ms).toBeGreaterThan(1_000);
    await client.mark('after');
    await sleep(SETTLE_MS);
    outcomes = (await client.stop()).scenes;
  });

  it.each(Object.entries(SCENES))('%s: %s', (scene) => {
    expect(outcomes[scene]).toBe('ok');
  });
});

describe('urgent data that the process has not read', () => {
  it('is not moved, for CRIU does not save it: refused by name, and nothing is lost', async () => {
    await using server = await startServer(7201);
    const client = await startScenes(7201, ['urgent_unread', 'echo']);
    const { object } = await osmosis(migrateArgs(server.pid, 'alpha', 'beta'));
    expect(object).toMatchObject({ ok: false, owner: 'source' });
    expect(object.message).toContain('urgent');
    expect((await client.stop()).scenes).toEqual({ urgent_unread: 'ok', echo: 'ok' });
  });
});

afterAll(async () => {
  expect(await leftSince(before)).toEqual({});
});
