/** Suspensions and resumptions that are cut off, hosts that restart meanwhile, disks that are full: one owner, and what is said. */
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { execa } from 'execa';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { EXIT_STATUS } from '../agent/error.ts';
import { execOn, LAB_HOSTS } from '../fixtures/lab/hosts.ts';
import {
  type StreamClient,
  type StreamServer,
  startStreamClient,
  startStreamServer,
} from '../fixtures/load/control.ts';
import { killAgents, untilAgentsBack } from './agents.ts';
import { osmosis } from './cli.ts';
import { dyingCommand, KILL_AGENT, rebootHost, replaceProgram, signalAgent } from './inject.ts';
import { imageDirectory, resume, resumeArgs, suspend, suspendArgs } from './suspending.ts';
import { leavesNothing, tracesOn } from './traces.ts';

const SETTLE_MS = 3_000;
const BETWEEN_MS = 500;
const TOLD_MS_MAX = 20_000;

leavesNothing();
let images: ReturnType<typeof imageDirectory>;
beforeAll(() => {
  images = imageDirectory();
});
afterAll(() => images[Symbol.dispose]());

/** One for each case. */
let port = 7670;
let server: StreamServer;
let client: StreamClient;
let file: string;
beforeEach(async () => {
  port++;
  server = await startStreamServer('alpha', { port });
  client = await startStreamClient({ server: 'alpha', port, connections: 5 });
  file = images.file(`image-${port}`);
});
afterEach(() => server[Symbol.asyncDispose]());

/** `others`: connections that the server has lost, and counts as its faults. */
async function expectKept(others = 0): Promise<void> {
  expect(await server.locate()).toHaveLength(1);
  await sleep(BETWEEN_MS);
  const kept = { resets: 0, out_of_order: 0, closed: 0, unfinished: 0, miscounted: 0 };
  const summary = await client.stop();
  expect(summary, JSON.stringify(summary)).toMatchObject(others === 0 ? { ok: true, ...kept } : kept);
}

const inspected = async () => (await osmosis(['inspect', file, '--json'])).object;

describe('the command is killed', () => {
  it('before the commit, its file complete: the source goes on, and the file owns nothing', async () => {
    await osmosis(suspendArgs(server.pid, 'alpha', file), { env: dyingCommand('its file is complete') });
    expect(await inspected()).toMatchObject({ ok: true, state: 'undecided', intact: true });
    await sleep(SETTLE_MS);
    for (const args of [resumeArgs(file, 'beta'), ['discard', file, '--on', 'ssh://beta', '--yes', '--json']])
      expect((await osmosis(args)).object).toMatchObject({ ok: false, code: 'IMAGE_USED', owner: 'source' });
    expect(await server.locate()).toEqual([{ host: 'alpha', pid: server.pid }]);
    await expectKept();
  });

  it('after the commit, its file not marked: it is resumed all the same, also after a restart of the agent', async () => {
    await osmosis(suspendArgs(server.pid, 'alpha', file), { env: dyingCommand('its file is marked') });
    expect(await inspected()).toMatchObject({ ok: true, state: 'undecided', intact: true });
    await killAgents('alpha');
    await untilAgentsBack('alpha');
    expect(await server.locate()).toEqual([]);
    await resume(file, 'beta');
    await expectKept();
  });
});

const held = async () => (await osmosis(['ps', 'ssh://peer', '--json'])).stdout;

describe('between the commit and the ACK of the HOLD', () => {
  /** The peer hears of nothing from the freeze on. */
  const deafened = `ssh peer "${signalAgent('STOP')}"`;

  it("the source's agent restarts: the next one goes on, and the connections wait", async () => {
    try {
      await using _killed = await replaceProgram(
        'alpha',
        'criu',
        `case $1 in dump) ${deafened}; "$REAL" "$@"; rc=$?; ${KILL_AGENT}; exit $rc;; esac\nexec "$REAL" "$@"`,
      );
      const { object } = await osmosis(suspendArgs(server.pid, 'alpha', file));
      // What it could not say to the agent it says to the operator: the file owns the process.
      if (object.ok !== true) expect(object.message).toContain(file);
      await untilAgentsBack('alpha');
    } finally {
      await execOn('peer', ['sh', '-c', signalAgent('CONT')]);
    }
    await expect.poll(held, { timeout: TOLD_MS_MAX }).toContain('"held"');
    await resume(file, 'beta');
    await expectKept();
    // Kept for 7 days for a file that may still have to ask; whether it had to depends on when the agent died.
    await execOn('alpha', ['sh', '-c', 'rm -f /var/lib/osmosis/decisions/*']);
  });
});

describe('a peer host that was restarted meanwhile', () => {
  it('is refused by name; --drop-gone goes on without its connections, and the others are kept', async () => {
    await using _gone = await startStreamClient({ server: 'alpha', on: 'gamma', port, connections: 2 });
    await suspend(server.pid, 'alpha', file);
    await rebootHost('gamma', 'stream-client[.]ts');
    await untilAgentsBack('gamma');
    const refused = await osmosis(resumeArgs(file, 'beta'));
    expect(refused.object).toMatchObject({ ok: false, code: 'IMAGE_STALE', owner: 'file' });
    expect(refused.object.message).toContain(LAB_HOSTS.gamma);
    expect(refused.object.message).not.toContain(LAB_HOSTS.peer);
    const { flows } = await resume(file, 'beta', '--drop-gone');
    expect(flows).toEqual({ moved: 6, relayed: 0, lost: 3 });
    const { stdout } = await execOn('beta', [
      'sh',
      '-c',
      `ss -tnH state all | grep -c ${LAB_HOSTS.gamma} || true`,
    ]);
    expect(stdout.trim()).toBe('0');
    await expectKept(flows.lost);
  });
});

describe('no room', () => {
  it('where the command writes: the process goes on, and no file is left', async ({ skip }) => {
    const small = mkdtempSync(join(tmpdir(), 'osmosis-small-'));
    const { failed, stderr } = await execa('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', small], {
      reject: false,
    });
    if (failed) {
      console.warn(`SKIPPED: a full disk is not tested, this machine does not mount a tmpfs: ${stderr}`);
      return skip(stderr);
    }
    try {
      const target = join(small, 'image');
      const { object, exitCode } = await osmosis(suspendArgs(server.pid, 'alpha', target));
      expect(object).toMatchObject({ ok: false, code: 'NO_ROOM', owner: 'source' });
      expect(object.message).toContain(target);
      expect(exitCode).toBe(EXIT_STATUS.NO_ROOM);
      expect([target, `${target}.partial`, `${target}.key`].filter(existsSync)).toEqual([]);
    } finally {
      await execa('umount', [small]);
      rmSync(small, { recursive: true });
    }
    expect(await server.locate()).toEqual([{ host: 'alpha', pid: server.pid }]);
    await expectKept();
  });

  it('at the host that is to resume it, found out late: the file is as it was', async () => {
    await suspend(server.pid, 'alpha', file);
    const had = await tracesOn('beta');
    {
      const { stdout } = await execOn('beta', ['df', '--output=size', '-B1K', '/run']);
      const sizeOf = (kilobytes: string) => `mount -o remount,size=${kilobytes}k /run`;
      const shrink = sizeOf('$(($(df --output=used -B1K /run | tail -1) + 256))');
      await using _full = await replaceProgram('beta', 'mkfifo', `${shrink}; exec "$REAL" "$@"`);
      try {
        const { object, exitCode } = await osmosis(resumeArgs(file, 'beta'));
        expect(object).toMatchObject({ ok: false, code: 'NO_ROOM', owner: 'file' });
        expect(exitCode).toBe(EXIT_STATUS.NO_ROOM);
      } finally {
        await execOn('beta', ['sh', '-c', sizeOf(stdout.split('\n')[1]?.trim() ?? '')]);
      }
    }
    expect(await inspected()).toMatchObject({ state: 'stored', intact: true });
    expect((await tracesOn('beta')).filter((line) => !had.includes(line))).toEqual([]);
    await resume(file, 'beta');
    await expectKept();
  });
});
