/**
 * Connections at awkward moments: what each is doing when the process is frozen, and what its peer does while it stands
 * still. All of them go through one move together, so that none may harm another.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { execOn, LAB_HOSTS, spawnOn } from '../fixtures/lab/hosts.ts';
import { type AttachedLoad, attachLoad } from '../fixtures/load/attach.ts';
import { untilListening } from '../fixtures/load/control.ts';
import { endEverywhere } from '../fixtures/load/processes.ts';
import { migrateArgs, move, osmosis } from './cli.ts';
import { MARK_AND_WAIT, replaceProgram, untilMarked } from './inject.ts';
import { leftSince, type Traces, traces } from './traces.ts';

const FOLDER = '/opt/osmosis/fixtures/load';
const SETTLE_MS = 500;
/** CRIU's restore begins this much later, and so the blackout is this much longer. */
const LATE_RESTORE = `case $1 in restore) ${MARK_AND_WAIT};; esac; exec "$REAL" "$@"`;

type Summary = { kind: 'summary'; ok: boolean; scenes: Record<string, string> };

let before: Traces;
beforeAll(async () => {
  before = await traces();
});

async function startServer(port: number): Promise<{ pid: number } & AsyncDisposable> {
  const { pid } = await spawnOn('alpha', ['python3', `${FOLDER}/awkward-server.py`, String(port)]);
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

async function startAcceptor(port: number, everyMs: number): Promise<{ pid: number } & AsyncDisposable> {
  const { pid } = await spawnOn('alpha', ['python3', `${FOLDER}/acceptor.py`, String(port), String(everyMs)]);
  await untilListening('alpha', port);
  return { pid, [Symbol.asyncDispose]: () => endEverywhere(`acceptor.py ${port}`) };
}

type CrowdSummary = {
  kind: 'summary';
  served: number;
  refused: number;
  timed_out: number;
  dropped: string[];
};

function startCrowd(
  port: number,
  count: number,
  everyMs: number,
): Promise<AttachedLoad<{ kind: 'tick' }, CrowdSummary>> {
  const options = [String(port), String(count), String(everyMs)];
  return attachLoad('peer', ['python3', `${FOLDER}/crowd.py`, LAB_HOSTS.alpha, ...options]);
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

describe('connections that wait to be accepted', () => {
  it('are accepted before the freeze, each of them', async () => {
    await using acceptor = await startAcceptor(7202, 120);
    const crowd = await startCrowd(7202, 12, 0);
    const { flows } = await move(acceptor.pid, 'alpha', 'beta');
    expect(flows.moved).toBe(12);
    expect(await crowd.stop()).toMatchObject({ served: 12, refused: 0, timed_out: 0, dropped: [] });
  });

  it('and where that takes too long, the process stays and serves them all', async () => {
    await using acceptor = await startAcceptor(7203, 2_000);
    const crowd = await startCrowd(7203, 6, 0);
    const { object } = await osmosis(migrateArgs(acceptor.pid, 'alpha', 'beta'));
    expect(object).toMatchObject({ ok: false, code: 'FLOWS_CHANGED', owner: 'source' });
    expect(await crowd.stop()).toMatchObject({ served: 6, refused: 0, timed_out: 0, dropped: [] });
  });
});

describe('clients that come all the time', () => {
  it('who was let in is served, and the others are refused or wait in vain', async () => {
    await using acceptor = await startAcceptor(7204, 0);
    await using _late = await replaceProgram('beta', 'criu', LATE_RESTORE);
    const crowd = await startCrowd(7204, 0, 12);
    const [{ flows }] = await Promise.all([move(acceptor.pid, 'alpha', 'beta'), untilMarked('beta')]);
    await sleep(SETTLE_MS);
    const { served, refused, dropped } = await crowd.stop();
    expect(dropped).toEqual([]);
    expect(served).toBe(flows.moved);
    expect(refused).toBeGreaterThan(0);
  });

  it('the first of them as well: a server without any connection is held off too', async () => {
    await using acceptor = await startAcceptor(7205, 0);
    await using _late = await replaceProgram('beta', 'criu', LATE_RESTORE);
    const connect = 'import socket; socket.create_connection(("10.77.1.2", 7205), 5); print("connected")';
    const [, { stdout, stderr }] = await Promise.all([
      move(acceptor.pid, 'alpha', 'beta'),
      untilMarked('beta').then(() => execOn('peer', ['python3', '-c', connect], { reject: false })),
    ]);
    expect(stdout).toBe('');
    expect(stderr).toContain('ConnectionRefusedError');
  });
});

afterAll(async () => {
  expect(await leftSince(before)).toEqual({});
});
