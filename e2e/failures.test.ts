/**
 * Every failure before commit leaves the process running at the source with its connections, and nothing at the
 * destination. One stream runs through all of them: it must not notice any.
 */
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { type ErrorCode, EXIT_STATUS } from '../agent/error.ts';
import { execOn, LAB_HOSTS, spawnOn } from '../fixtures/lab/hosts.ts';
import {
  type StreamClient,
  type StreamServer,
  startStreamClient,
  startStreamServer,
} from '../fixtures/load/control.ts';
import { migrateArgs, move, type Outcome, osmosis } from './cli.ts';
import { cover, KILL_AGENT, MARK_AND_WAIT, onMark, replaceProgram, untilMarked } from './inject.ts';
import { leftSince, type Traces, traces } from './traces.ts';

const PORT = 7110;
let before: Traces;
let server: StreamServer;
let client: StreamClient;

beforeAll(async () => {
  before = await traces();
  server = await startStreamServer('alpha', { port: PORT, ballastMiB: 64 });
  client = await startStreamClient({ server: 'alpha', port: PORT, connections: 20, everyMs: 20 });
});

afterAll(async () => {
  await server[Symbol.asyncDispose]();
});

/** The server still runs at the source. */
async function stays(): Promise<void> {
  expect(await server.locate()).toEqual([{ host: 'alpha', pid: server.pid }]);
}

/** That, and nothing of ours is anywhere. */
async function nothingHappened(): Promise<void> {
  await stays();
  expect(await leftSince(before)).toEqual({});
}

function refused(outcome: Outcome, code: ErrorCode, phase?: string): void {
  expect(outcome.object).toMatchObject({
    ok: false,
    code,
    owner: 'source',
    ...(phase === undefined ? {} : { phase }),
  });
  expect(outcome.exitCode).toBe(EXIT_STATUS[code]);
}

const tryMove = (...more: string[]) => osmosis(migrateArgs(server.pid, 'alpha', 'beta', ...more));

describe('the plan refuses', () => {
  afterEach(stays);
  afterAll(nothingHappened);

  it('the same host, by name and by what it is', async () => {
    refused(await osmosis(migrateArgs(server.pid, 'alpha', 'alpha')), 'SAME_HOST', 'plan');
    refused(
      await osmosis([
        'migrate',
        String(server.pid),
        '--from',
        'ssh://alpha',
        '--to',
        'ssh://root@alpha',
        '--json',
      ]),
      'SAME_HOST',
      'plan',
    );
  });

  it('a process that is not there', async () => {
    refused(await osmosis(migrateArgs(4_000_000, 'alpha', 'beta')), 'NO_SUCH_TARGET', 'plan');
    refused(await osmosis(migrateArgs('no-such-cell', 'alpha', 'beta')), 'NO_SUCH_TARGET', 'plan');
  });

  it('a destination that is not there, has no agent, or refuses the key', async () => {
    const to = (host: string, env: Record<string, string> = {}) =>
      osmosis(['migrate', String(server.pid), '--from', 'ssh://alpha', '--to', host, '--json'], { env });
    refused(await to('ssh://alpha:1'), 'SSH_UNREACHABLE');
    refused(await to('ssh://legacy'), 'AGENT_UNREACHABLE');
    refused(await to('ssh://nobody@beta'), 'SSH_AUTH');
  });

  it('a destination without CRIU', async () => {
    await using _criu = await replaceProgram('beta', 'criu', 'exit 127');
    const outcome = await tryMove();
    refused(outcome, 'PREFLIGHT', 'plan');
    expect(outcome.object.message).toContain('criu');
  });

  it('a destination with an older kernel', async () => {
    await using _kernel = await cover('beta', '/proc/sys/kernel/osrelease', '5.10.0-fake\n');
    const outcome = await tryMove();
    refused(outcome, 'PREFLIGHT', 'plan');
    expect(outcome.object.message).toContain('5.10.0-fake');
  });

  it('a destination that lacks features of the CPU', async () => {
    await using _cpu = await cover('beta', '/proc/cpuinfo', 'flags\t\t: fpu sse\n');
    const outcome = await tryMove();
    refused(outcome, 'PREFLIGHT', 'plan');
    expect(outcome.object.message).toContain('lacks CPU features');
  });

  it('a destination that lacks a file', async () => {
    await execOn('alpha', ['cp', '/usr/bin/sleep', '/srv/only-here']);
    const { pid } = await spawnOn('alpha', ['/srv/only-here', '1000']);
    const outcome = await osmosis(migrateArgs(pid, 'alpha', 'beta'));
    await execOn('alpha', ['kill', String(pid)]);
    refused(outcome, 'PREFLIGHT', 'plan');
    expect(outcome.object.message).toContain('/srv/only-here');
  });

  it('a destination whose tmpfs has no room', async () => {
    await execOn('beta', [
      'sh',
      '-c',
      'fallocate -l $(($(df --output=avail -B1 /run | tail -1) - 33554432)) /run/filler',
    ]);
    const outcome = await tryMove();
    await execOn('beta', ['rm', '/run/filler']);
    refused(outcome, 'PREFLIGHT', 'plan');
    expect(outcome.object.message).toContain('room');
  });

  it('a peer without an agent, by its address', async () => {
    await using legacy = await startStreamClient({
      server: 'alpha',
      on: 'legacy',
      port: PORT,
      connections: 2,
      everyMs: 50,
    });
    const outcome = await tryMove();
    refused(outcome, 'LEGACY_PEERS', 'plan');
    expect(outcome.object.message).toContain(`${LAB_HOSTS.legacy} (3 flows)`);
    expect(await legacy.stop()).toMatchObject({ ok: true });
  });

  it('bad flags', async () => {
    for (const args of [
      ['migrate'],
      ['migrate', '1', '--from', 'ssh://alpha'],
      ['migrate', '1', '--from', 'x://y', '--to', 'ssh://beta'],
      ['nonsense'],
    ]) {
      expect((await osmosis(args)).exitCode).toBe(EXIT_STATUS.USAGE);
    }
  });

  it('nothing: --dry-run only prints', async () => {
    const { object, exitCode } = await tryMove('--dry-run');
    expect(exitCode).toBe(0);
    expect(object).toMatchObject({
      ok: true,
      dry_run: true,
      plan: { peers: [{ address: LAB_HOSTS.peer, agent: true, flows: 21 }] },
    });
  });
});

describe('undone', () => {
  afterEach(nothingHappened);

  it('prepare: a peer that falls silent', async () => {
    await using _silence = await replaceProgram(
      'beta',
      'unshare',
      'ssh peer pkill -STOP -f "\'osmosis agent$\'"\nexec "$REAL" "$@"',
    );
    try {
      refused(await tryMove(), 'PEER_SILENT', 'prepare');
    } finally {
      await execOn('peer', ['pkill', '-CONT', '-f', 'osmosis agent$']);
    }
  });

  it('prepare: a destination that can make no cell', async () => {
    await using _broken = await replaceProgram('beta', 'unshare', 'exit 1');
    refused(await tryMove(), 'CELL', 'prepare');
  });

  it('freeze: CRIU can not save the process', async () => {
    await using _broken = await replaceProgram(
      'alpha',
      'criu',
      'case $1 in dump) exit 1;; esac; exec "$REAL" "$@"',
    );
    refused(await tryMove(), 'DUMP_FAILED', 'freeze');
  });

  it('freeze: tmpfs full while the image arrives', async () => {
    const fill = 'fallocate -l $(($(df --output=avail -B1 /run | tail -1) - 16777216)) /run/filler';
    await using _full = await replaceProgram('beta', 'unshare', `${fill}\nexec "$REAL" "$@"`);
    const outcome = await tryMove();
    await execOn('beta', ['rm', '-f', '/run/filler']);
    refused(outcome, 'NO_ROOM', 'freeze');
  });

  it('freeze: the image is cut short', async () => {
    await using _slow = await replaceProgram(
      'alpha',
      'criu',
      `case $1 in dump) ${MARK_AND_WAIT};; esac; exec "$REAL" "$@"`,
    );
    // The image channel is the younger one of the two.
    await onMark('alpha', "pkill -n -f 'osmosis agent stdio'");
    const outcome = await tryMove();
    expect(outcome.object).toMatchObject({ ok: false, owner: 'source' });
    expect(['AGENT_UNREACHABLE', 'SSH_UNREACHABLE', 'IMAGE_CORRUPT']).toContain(outcome.object.code);
  });

  it('restore: CRIU can not restore the process', async () => {
    await using _broken = await replaceProgram(
      'beta',
      'criu',
      'case $1 in restore) exit 1;; esac; exec "$REAL" "$@"',
    );
    refused(await tryMove(), 'RESTORE_FAILED', 'restore');
  });

  it("restore: the destination's agent is killed", async () => {
    await using _slow = await replaceProgram(
      'beta',
      'criu',
      `case $1 in restore) ${MARK_AND_WAIT};; esac; exec "$REAL" "$@"`,
    );
    await onMark('beta', KILL_AGENT);
    expect((await tryMove()).object).toMatchObject({ ok: false, owner: 'source' });
  });

  it("freeze: the source's agent is killed", async () => {
    await using _slow = await replaceProgram(
      'alpha',
      'criu',
      `case $1 in dump) ${MARK_AND_WAIT};; esac; exec "$REAL" "$@"`,
    );
    await onMark('alpha', KILL_AGENT);
    expect((await tryMove()).object).toMatchObject({ ok: false, owner: 'source' });
  });

  it('restore: the destination is cut off from the orchestrator', async () => {
    await using _slow = await replaceProgram(
      'beta',
      'criu',
      `case $1 in restore) ${MARK_AND_WAIT};; esac; exec "$REAL" "$@"`,
    );
    await onMark('beta', "pkill -f 'sshd-session: root'");
    expect((await tryMove()).object).toMatchObject({ ok: false, owner: 'source' });
  });

  it('of two at once the second is refused', async () => {
    await using _slow = await replaceProgram(
      'beta',
      'criu',
      `case $1 in restore) ${MARK_AND_WAIT}; sleep 4; exit 1;; esac; exec "$REAL" "$@"`,
    );
    const first = tryMove();
    await untilMarked('beta');
    refused(await osmosis(migrateArgs(server.pid, 'alpha', 'gamma')), 'BUSY');
    refused(await first, 'RESTORE_FAILED');
  });

  it.each(['prepare', 'freeze', 'restore'])('Ctrl-C in %s', async (phase) => {
    const slow = 'sleep 1.5; exec "$REAL" "$@"';
    await using _slow =
      phase === 'prepare'
        ? await replaceProgram('beta', 'unshare', slow)
        : await replaceProgram(
            phase === 'freeze' ? 'alpha' : 'beta',
            'criu',
            `case $1 in dump|restore) ${slow};; esac; exec "$REAL" "$@"`,
          );
    const interrupt = new AbortController();
    const running = osmosis(migrateArgs(server.pid, 'alpha', 'beta'), {
      signal: interrupt.signal,
      interrupt: 'SIGINT',
    });
    setTimeout(() => interrupt.abort(), 1_800);
    refused(await running, 'INTERRUPTED');
  });
});

describe('a process that ends meanwhile', () => {
  afterEach(nothingHappened);

  it('is said to have ended', async () => {
    const { pid } = await spawnOn('alpha', ['sleep', '1001']);
    await using _killer = await replaceProgram(
      'alpha',
      'criu',
      `case $1 in dump) kill -9 ${pid};; esac; exec "$REAL" "$@"`,
    );
    const outcome = await osmosis(migrateArgs(pid, 'alpha', 'beta'));
    refused(outcome, 'TARGET_EXITED', 'freeze');
  });
});

describe('after all of that', () => {
  it('the stream has noticed nothing, and the process still moves', async () => {
    const { cell } = await move(server.pid, 'alpha', 'beta');
    const home = await move(cell, 'beta', 'alpha');
    server = { ...server, pid: home.pid };
    expect(await client.stop()).toMatchObject({ ok: true, resets: 0, out_of_order: 0 });
    await server[Symbol.asyncDispose]();
    expect(await leftSince(before)).toEqual({});
  });
});
