/** Suspended into a file and resumed from it: from the peers' side nothing but a silence, and at every instant one owner. */
import { copyFileSync, existsSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { type ErrorCode, EXIT_STATUS } from '../agent/error.ts';
import { execOn, LAB_HOSTS, type LabHost } from '../fixtures/lab/hosts.ts';
import {
  type StreamClient,
  type StreamServer,
  startDatagramClient,
  startDatagramServer,
  startStreamClient,
  startStreamServer,
} from '../fixtures/load/control.ts';
import { startMovableLines, startTreeServer } from '../fixtures/load/lines.ts';
import { move, type Outcome, osmosis } from './cli.ts';
import { expectAllAnswered } from './datagrams.ts';
import { KILL_AGENT, MARK_AND_WAIT, onMark, replaceProgram, untilMarked } from './inject.ts';
import { imageDirectory, resume, resumeArgs, suspend, suspendArgs } from './suspending.ts';
import { leftSince, type Traces, traces, tracesOn } from './traces.ts';

/** Everybody has noticed; e2e/suspend-peers.test.ts and e2e/datapath-hold.test.ts wait for longer. */
const AWAY_MS = 500;
const BETWEEN_MS = 500;
const UDP_EVERY_MS = 200;
/** Above all that an agent finishes or undoes by itself. */
const SETTLE_MS = 3_000;
const AGENT_BACK_MS = 3_000;

let before: Traces;
let images: ReturnType<typeof imageDirectory>;
beforeAll(async () => {
  before = await traces();
  images = imageDirectory();
});
afterAll(async () => {
  images[Symbol.dispose]();
  expect(await leftSince(before)).toEqual({});
});

async function away(target: string, from: LabHost, to: LabHost, flows: number): Promise<string> {
  const file = images.file(`${target}-${from}-${to}-${Date.now()}`);
  const { cell, flows: held, unconfirmed } = await suspend(target, from, file);
  expect([held, unconfirmed]).toEqual([{ held: flows, lost: 0 }, []]);
  await sleep(AWAY_MS);
  const resumed = await resume(file, to);
  expect(resumed).toMatchObject({ cell, flows: { moved: flows, relayed: 0, lost: 0 } });
  await sleep(BETWEEN_MS);
  return cell;
}

type RemoteCell = {
  cell: string;
  datagrams_wait?: boolean;
  datagrams?: { came: number; late: number; lost: number };
};

/** The one suspended cell that the peer has connections with. */
async function remoteCell(): Promise<RemoteCell | undefined> {
  const { object } = await osmosis(['ps', 'ssh://peer', '--json']);
  const [host] = (object.hosts ?? []) as { remote_cells: RemoteCell[] }[];
  return host?.remote_cells[0];
}

describe('under load', () => {
  it('a stream goes on elsewhere, goes home, and on the same host', async () => {
    await using server = await startStreamServer('alpha', { port: 7600 });
    await using client = await startStreamClient({ server: 'alpha', port: 7600, connections: 10 });
    const file = images.file('first');
    const { cell } = await suspend(server.pid, 'alpha', file);
    expect(await server.locate()).toEqual([]);
    const had = before.get('alpha') ?? [];
    expect((await tracesOn('alpha')).filter((line) => !had.includes(line))).toEqual([]);
    await sleep(AWAY_MS);
    await resume(file, 'beta');
    expect((await server.locate()).map(({ host }) => host)).toEqual(['beta']);
    await sleep(BETWEEN_MS);
    // In its cell.
    await away(cell, 'beta', 'beta', 11);
    await away(cell, 'beta', 'alpha', 11);
    // At home.
    await away(cell, 'alpha', 'alpha', 11);
    for (const host of ['alpha', 'peer'])
      await expect
        .poll(async () => (await osmosis(['datapath', `ssh://${host}`, '--json'])).object, {
          timeout: 20_000,
        })
        .toMatchObject({ flows: [], sides: [], devices: [] });
    // What was resumed moves like any other.
    await move(cell, 'alpha', 'gamma');
    await sleep(BETWEEN_MS);
    expect(await client.stop()).toMatchObject({ ok: true, resets: 0, out_of_order: 0, closed: 0 });
  });

  it('datagrams, to one socket for all clients and to a socket for each', async () => {
    const servers = [
      { port: 7601, connected: false },
      { port: 7602, connected: true },
    ];
    const check = async ({ port, connected }: (typeof servers)[number]) => {
      await using server = await startDatagramServer('alpha', { port, connected });
      await using client = await startDatagramClient({
        server: 'alpha',
        port,
        connected: 10,
        unconnected: 10,
        everyMs: 40,
      });
      await away(String(server.pid), 'alpha', 'beta', 20);
      expectAllAnswered(await client.stop());
    };
    await Promise.all(servers.map(check));
  });

  it.each(['hold', 'drop'] as const)('datagrams for it, with --udp %s', async (udp) => {
    const port = udp === 'hold' ? 7606 : 7607;
    await using server = await startDatagramServer('alpha', { port, connected: true });
    await using client = await startDatagramClient({ server: 'alpha', port, everyMs: UDP_EVERY_MS });
    const file = images.file(`udp-${udp}`);
    await suspend(server.pid, 'alpha', file, '--udp', udp);
    const since = performance.now();
    await sleep(BETWEEN_MS);
    expect(await remoteCell()).toMatchObject({
      state: 'held',
      ...(udp === 'hold' && { datagrams_wait: true }),
    });
    // What is in the kernel waits on.
    await execOn('peer', ['sh', '-c', KILL_AGENT]);
    await sleep(AWAY_MS);
    await expect.poll(remoteCell, { timeout: 20_000 }).toMatchObject({ state: 'held' });
    const sent = (0.8 * client.connections * (performance.now() - since)) / UDP_EVERY_MS;
    await resume(file, 'beta');
    await expect.poll(remoteCell, { timeout: 20_000 }).toMatchObject({ state: 'moved' });
    await expect.poll(async () => (await remoteCell())?.datagrams_wait, { timeout: 20_000 }).toBeUndefined();
    const { datagrams } = (await remoteCell()) ?? {};
    const summary = await client.stop();
    expectAllAnswered(summary);
    if (udp === 'drop') {
      expect(datagrams).toBeUndefined();
      expect(summary.lost_out).toBeGreaterThanOrEqual(sent);
    } else {
      expect(datagrams).toMatchObject({ late: 0, lost: 0 });
      expect(datagrams?.came).toBeGreaterThanOrEqual(sent);
      // Also none of those that came while the image was written.
      expect(summary.lost_out).toBe(0);
    }
  });

  it('peers on the same host, over its address and over loopback, and on the host that it is resumed on', async () => {
    const port = 7603;
    const peers = [
      ['alpha', 'alpha'],
      ['alpha', '127.0.0.1'],
      ['beta', 'alpha'],
    ] as const;
    await using server = await startTreeServer('alpha', port);
    const clients = await Promise.all(
      peers.map(([on, address], index) =>
        startMovableLines(on, [`${address}:${port}`], {
          connections: 5,
          everyMs: 20,
          log: `suspend-${index}`,
        }),
      ),
    );
    const cell = await away(String(server.pid), 'alpha', 'beta', 15);
    await away(cell, 'beta', 'alpha', 15);
    for (const [index, [on]] of peers.entries())
      expect(await clients[index]?.stop(on)).toMatchObject({ ok: true, faults: [] });
  });
});

function refused(
  { object, exitCode }: Outcome,
  code: ErrorCode,
  owner: 'source' | 'file' | 'destination',
): void {
  expect(object).toMatchObject({ ok: false, code, owner });
  expect(exitCode).toBe(EXIT_STATUS[code]);
}

/** One suspension for all of them: what is refused or fails leaves the file as it was, and the last one resumes it. */
describe('one owner', () => {
  let server: StreamServer;
  let client: StreamClient;
  let cell: string;
  let file: string;

  /** In a file of its own, with the key beside it. */
  beforeAll(async () => {
    server = await startStreamServer('alpha', { port: 7610 });
    client = await startStreamClient({ server: 'alpha', port: 7610, connections: 5 });
    file = images.file('one');
    ({ cell } = await suspend(server.pid, 'alpha', file));
  });

  afterAll(async () => {
    await server[Symbol.asyncDispose]();
  });

  function copyOf(original: string, name: string): string {
    const copy = `${original}-${name}`;
    copyFileSync(original, copy);
    copyFileSync(`${original}.key`, `${copy}.key`);
    return copy;
  }

  it('damaged, cut, of another version, or with another key: refused, and nothing is changed', async () => {
    const untouched = await traces();
    const bytes = readFileSync(file);
    const change = (name: string, altered: Uint8Array) => {
      const path = images.file(name);
      writeFileSync(path, altered);
      copyFileSync(`${file}.key`, `${path}.key`);
      return path;
    };
    const flipped = (at: number) => {
      const altered = Buffer.from(bytes);
      altered.writeUInt8(altered.readUInt8(at) ^ 1, at);
      return altered;
    };
    const cases: [string, Uint8Array, ErrorCode][] = [
      ['no-image', Buffer.alloc(4_096), 'IMAGE_FORMAT'],
      ['version', Buffer.concat([bytes.subarray(0, 8), Buffer.of(9), bytes.subarray(9)]), 'IMAGE_FORMAT'],
      ['cut', bytes.subarray(0, bytes.length - 100), 'IMAGE_CORRUPT'],
      ['head', flipped(20), 'IMAGE_CORRUPT'],
      ['state', flipped(70), 'IMAGE_CORRUPT'],
      ['metadata', flipped(bytes.length - 100), 'IMAGE_CORRUPT'],
      ['data', flipped(Math.floor(bytes.length / 2)), 'IMAGE_CORRUPT'],
    ];
    const outcomes = cases.map(async ([name, altered, code]) =>
      expect([name, (await osmosis(resumeArgs(change(name, altered), 'beta'))).object]).toMatchObject([
        name,
        { ok: false, code },
      ]),
    );
    await Promise.all(outcomes);
    const other = images.file('another.key');
    writeFileSync(other, `${'ab'.repeat(32)}\n`, { mode: 0o600 });
    refused(await osmosis(resumeArgs(file, 'beta', '--key-file', other)), 'IMAGE_KEY', 'file');
    expect(readFileSync(file).equals(bytes)).toBe(true);
    expect(await leftSince(untouched)).toEqual({});
  });

  it('a peer whose agent does not answer: refused, by its name, and later it goes on', async () => {
    await execOn('peer', ['pkill', '-STOP', '-f', 'osmosis agent$']);
    try {
      const outcome = await osmosis(resumeArgs(file, 'beta'));
      refused(outcome, 'PEER_SILENT', 'file');
      expect(outcome.object.message).toContain(LAB_HOSTS.peer);
    } finally {
      await execOn('peer', ['pkill', '-CONT', '-f', 'osmosis agent$']);
    }
  });

  it("the destination's agent ends before the commit: the file is as it was", async () => {
    {
      await using _slow = await replaceProgram(
        'beta',
        'criu',
        `case $1 in restore) ${MARK_AND_WAIT};; esac; exec "$REAL" "$@"`,
      );
      await onMark('beta', KILL_AGENT);
      const outcome = await osmosis(resumeArgs(file, 'beta'));
      expect(outcome.object).toMatchObject({ ok: false, owner: 'file' });
    }
    await sleep(AGENT_BACK_MS);
    expect(await server.locate()).toEqual([]);
  });

  it('the command is killed while it resumes: the file is as it was, or it runs', async () => {
    const kill = new AbortController();
    {
      await using _slow = await replaceProgram(
        'beta',
        'criu',
        `case $1 in restore) ${MARK_AND_WAIT};; esac; exec "$REAL" "$@"`,
      );
      const running = osmosis(resumeArgs(file, 'beta'), { signal: kill.signal, interrupt: 'SIGKILL' });
      await untilMarked('beta');
      kill.abort();
      await running;
    }
    await sleep(SETTLE_MS);
    expect(await server.locate()).toEqual([]);
  });

  it('a file is resumed once, a copy of it not at all, and an old one not after a newer', async () => {
    const [copy, another] = [copyOf(file, 'copy'), copyOf(file, 'another')];
    await resume(file, 'beta');
    const [used, stale, there] = await Promise.all([
      osmosis(resumeArgs(file, 'gamma')),
      osmosis(resumeArgs(copy, 'gamma')),
      osmosis(resumeArgs(another, 'beta')),
    ]);
    refused(used, 'IMAGE_USED', 'destination');
    refused(stale, 'IMAGE_STALE', 'file');
    expect(stale.object.message).toContain('does not wait for the cell');
    refused(there, 'IMAGE_STALE', 'destination');
    const newer = images.file('newer');
    await suspend(cell, 'beta', newer);
    refused(await osmosis(resumeArgs(copy, 'gamma')), 'IMAGE_STALE', 'file');
    await resume(newer, 'gamma');
    refused(await osmosis(resumeArgs(copy, 'alpha')), 'IMAGE_STALE', 'file');
    expect(await server.locate()).toHaveLength(1);
    await sleep(BETWEEN_MS);
    expect(await client.stop()).toMatchObject({ ok: true, resets: 0, out_of_order: 0 });
  });
});

describe('a suspension that does not come to its end', () => {
  let server: StreamServer;
  let client: StreamClient;
  beforeEach(async () => {
    server = await startStreamServer('alpha', { port: 7620 });
    client = await startStreamClient({ server: 'alpha', port: 7620, connections: 5 });
  });

  afterEach(async () => {
    expect(await server.locate()).toEqual([{ host: 'alpha', pid: server.pid }]);
    await sleep(BETWEEN_MS);
    expect(await client.stop()).toMatchObject({ ok: true, resets: 0, out_of_order: 0 });
    await server[Symbol.asyncDispose]();
  });

  it.each(['SIGINT', 'SIGKILL'] as const)(
    '%s before the commit: the process goes on at the source',
    async (interrupt) => {
      const file = images.file(`undone-${interrupt}`);
      await using _slow = await replaceProgram(
        'alpha',
        'criu',
        `case $1 in dump) ${MARK_AND_WAIT};; esac; exec "$REAL" "$@"`,
      );
      const stop = new AbortController();
      const running = osmosis(suspendArgs(server.pid, 'alpha', file), { signal: stop.signal, interrupt });
      await untilMarked('alpha');
      stop.abort();
      const outcome = await running;
      await sleep(SETTLE_MS);
      expect(existsSync(file)).toBe(false);
      if (interrupt === 'SIGKILL') return;
      refused(outcome, 'INTERRUPTED', 'source');
      expect([`${file}.partial`, `${file}.key`].filter(existsSync)).toEqual([]);
    },
  );

  it('a file that is there, a passphrase file for all to read, a peer without an agent: nothing is touched', async () => {
    const file = images.file('taken');
    writeFileSync(file, 'mine');
    refused(await osmosis(suspendArgs(server.pid, 'alpha', file)), 'IMAGE_FILE', 'source');
    expect(readFileSync(file, 'utf8')).toBe('mine');
    const open = images.file('open');
    writeFileSync(open, 'secret\n', { mode: 0o644 });
    const other = images.file('other');
    refused(
      await osmosis(suspendArgs(server.pid, 'alpha', other, '--passphrase-file', open)),
      'IMAGE_KEY',
      'source',
    );
    await using legacy = await startStreamClient({
      server: 'alpha',
      on: 'legacy',
      port: 7620,
      connections: 2,
    });
    const outcome = await osmosis(suspendArgs(server.pid, 'alpha', other));
    refused(outcome, 'LEGACY_PEERS', 'source');
    expect(outcome.object.message).toContain('--drop-legacy');
    const { object } = await osmosis(suspendArgs(server.pid, 'alpha', other, '--dry-run', '--drop-legacy'));
    expect(object).toMatchObject({ ok: true, dry_run: true, plan: { to: other } });
    expect(existsSync(other)).toBe(false);
    expect(await legacy.stop()).toMatchObject({ ok: true });
  });
});

describe('a peer that hears of it late', () => {
  it("is told, also by the source's next agent, before anything there is taken away", async () => {
    await using server = await startStreamServer('alpha', { port: 7640 });
    await using client = await startStreamClient({ server: 'alpha', port: 7640, connections: 5 });
    const file = images.file('late');
    const stop = 'ssh peer pkill -STOP -f "\'osmosis agent$\'"';
    try {
      await using _silence = await replaceProgram(
        'alpha',
        'criu',
        `case $1 in dump) ${stop};; esac\nexec "$REAL" "$@"`,
      );
      const { object, exitCode } = await osmosis(suspendArgs(server.pid, 'alpha', file));
      expect(object).toMatchObject({ ok: true, unconfirmed: [LAB_HOSTS.peer] });
      expect(exitCode).toBe(EXIT_STATUS.UNCONFIRMED);
      await execOn('alpha', ['sh', '-c', KILL_AGENT]);
      await sleep(AGENT_BACK_MS);
      expect(
        (await tracesOn('alpha')).filter((line) => line.startsWith('file /run/osmosis/bpf')),
      ).not.toEqual([]);
    } finally {
      await execOn('peer', ['pkill', '-CONT', '-f', 'osmosis agent$']);
    }
    const states = async () => (await osmosis(['ps', 'ssh://peer', '--json'])).stdout;
    await expect.poll(states, { timeout: 20_000 }).toContain('"held"');
    await expect
      .poll(() => tracesOn('alpha').then((all) => all.filter((line) => line.includes('/run/osmosis/bpf'))), {
        timeout: 20_000,
      })
      .toEqual([]);
    await resume(file, 'beta');
    await sleep(BETWEEN_MS);
    expect(await client.stop()).toMatchObject({ ok: true, resets: 0, out_of_order: 0 });
  });
});

describe('what the file says', () => {
  it('little without the passphrase, more with it; nobody else can read it', async () => {
    await using server = await startStreamServer('alpha', { port: 7630 });
    await using client = await startStreamClient({ server: 'alpha', port: 7630, connections: 2 });
    const [file, passphrase] = [images.file('sealed'), images.file('passphrase')];
    writeFileSync(passphrase, 'correct horse\n', { mode: 0o600 });
    const args = ['--passphrase-file', passphrase];
    const { cell } = await suspend(server.pid, 'alpha', file, ...args);
    expect(statSync(file).mode & 0o077).toBe(0);
    expect(existsSync(`${file}.key`)).toBe(false);
    const inspect = (...more: string[]) => osmosis(['inspect', file, '--json', ...more]);
    const clear = await inspect();
    expect(clear.object).toMatchObject({
      ok: true,
      cell,
      state: 'stored',
      intact: true,
      key: 'passphrase',
      flows: 3,
      host: { hostname: 'alpha' },
    });
    expect(clear.stdout).not.toMatch(/10\.77\.|stream-server/);
    expect((await inspect(...args)).object).toMatchObject({
      sealed: { listeners: [{ port: 7630 }], peers: [{ address: '10.77.4.2' }] },
    });
    writeFileSync(passphrase, 'wrong horse\n');
    refused(await osmosis(resumeArgs(file, 'beta', ...args)), 'IMAGE_KEY', 'file');
    writeFileSync(passphrase, 'correct horse\n');
    const dry = await osmosis(resumeArgs(file, 'beta', '--dry-run', ...args));
    expect(dry.object).toMatchObject({ ok: true, dry_run: true, plan: { state: 'stored' } });
    await resume(file, 'beta', ...args);
    expect((await inspect()).object).toMatchObject({
      state: 'resumed',
      intact: true,
      last: { host: 'beta' },
    });
    await sleep(BETWEEN_MS);
    expect(await client.stop()).toMatchObject({ ok: true, resets: 0 });
  });
});
