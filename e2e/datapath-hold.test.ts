/**
 * A cell that is suspended, and its peers, who do not know: real TCP in network namespaces. The cell's sockets are put in
 * repair mode and taken out of it again, as CRIU does, and its host is fenced meanwhile. What the peer's kernel would give
 * up within seconds (its limits are shrunk) it keeps for as long as it is answered.
 *
 *     guest --- peer 10.87.4.2 ------- host 10.87.1.2 --- cell, has 10.87.9.2
 *
 * `guest` is the inside of a cell on the peer: its sockets are not the host's own.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Endpoint } from '../agent/address.ts';
import type { Datapath } from '../agent/datapath/datapath.ts';
import { acceptOf, type FlowEntry, type Side } from '../agent/datapath/model.ts';
import { cellDevice, type Waking, wakeUp } from '../agent/datapath/socket-wakes.ts';
import { openDatapath, remove } from './datapaths.ts';
import { type Namespace, Namespaces, type Told } from './namespaces.ts';
import { addressesOf, connectHost, giveAddresses, linkCell, routeBy, sendBy } from './networks.ts';
import { datapathUntestable } from './tools.ts';

const ENDS = fileURLToPath(new URL('held-ends.py', import.meta.url));
/** Without an answer the kernel gives up after 3 s (tcp_retries2), and keepalive after 3 s. */
const RETRIES = 3;
const RETRIES_USUAL = 15;
/** Just after a peer's kernel has asked for the sixth time, 200 ms after the first and then twice as long each: by itself it is silent for 12 s more. */
const HOLD_MS = 14_500;
/** Long enough for buffers to be full, and to fill anew. */
const TRAFFIC_MS = 1_000;
/** Network of 0 ms; a busy machine. */
const RESUME_MS_MAX = 400;
/** The cell's own sockets, and those in a cell, may have backed off. */
const END_MS_MAX = 30_000;
const LOSS_MS = 50;
/** Programs are loaded first, on a busy machine; nobody would be heard so soon by itself. */
const WAKE_MS_MAX = 8_000;
/** A segment is repeated in vain meanwhile: it counts from before the suspension that nobody has acknowledged it. */
const DEAF_MS = 500;
const WRITE_BYTES = 300_000;
const PORT = 7000;
const LABEL = 40_000;
const CELL = 1;
const HELD = 2;
const SILENT = 3;
const GUEST = 4;
/** Of the same cell: what it says first when it is back does not arrive, and at `DEAF` what it is told first neither. */
const MUTE = 5;
const DEAF = 6;

const SITE = 87;
const ADDRESSES = {
  ipv4: { peer: '10.87.4.2', host: '10.87.4.1', cell: '10.87.9.2', guest: '10.87.8.2' },
  ipv6: { peer: 'fd87:4::2', host: 'fd87:4::1', cell: 'fd87:9::2', guest: 'fd87:8::2' },
} as const;
type Family = keyof typeof ADDRESSES;
type Line = Readonly<Record<string, unknown>>;

const KEEPALIVE = ['TCP_KEEPIDLE=1', 'TCP_KEEPINTVL=1', 'TCP_KEEPCNT=2'];
/** What peers do while the cell is away, and by which option their kernels would give up. */
const KINDS = [
  { name: 'a peer that sends', kind: 'send', options: [], dies: true },
  { name: 'a peer that sends now and then', kind: 'trickle', options: [], dies: true },
  { name: 'a peer that receives', kind: 'receive', options: [], dies: false },
  { name: 'an idle peer with aggressive keepalive', kind: 'idle', options: KEEPALIVE, dies: true },
  { name: 'a peer that writes and closes meanwhile', kind: 'write', options: [], dies: false },
] as const;
const SENDERS = KINDS.slice(0, 2);
/** With data in flight, and with data that has never been sent. */
const WAITING = KINDS.filter(({ kind }) => kind === 'trickle' || kind === 'write');
const FAMILIES = ['ipv4', 'ipv6'] as const;

const untestable = await datapathUntestable();

describe.skipIf(untestable !== undefined)(`a suspended cell ${untestable ?? ''}`, () => {
  const namespaces = new Namespaces();
  let directory: string;
  let spaces: Record<'peer' | 'guest' | 'host' | 'cell', Namespace>;
  let datapaths: Record<'peer' | 'host', Datapath>;
  let guestLink: number;
  const cells: Partial<Record<Family, Program>> = {};
  const peers: Peer[] = [];
  let port = 51_000;

  beforeAll(async () => {
    directory = await mkdtemp(join(tmpdir(), 'osmosis-hold-'));
    spaces = await topology(namespaces);
    guestLink = await spaces.peer.ifindex('guest');
    datapaths = {
      peer: await openDatapath(join(directory, 'peer'), spaces.peer),
      host: await openDatapath(join(directory, 'host'), spaces.host),
    };
    for (const id of [CELL, MUTE, DEAF]) await datapaths.host.putSide(await cellSide('home', id));
    for (const id of [HELD, SILENT]) await datapaths.peer.putSide(remoteSide(id, 'moved'));
    await datapaths.peer.putSide({ ...remoteSide(GUEST, 'home'), ifindex: guestLink });
    await datapaths.host.attachDevice('eth0');
    await datapaths.host.attachCell('cell');
    await datapaths.peer.attachDevice('eth0');
    await datapaths.peer.attachCell('guest');
    await datapaths.peer.attachHeld(spaces.guest.path, guestLink);
    for (const family of FAMILIES) {
      cells[family] = await start(spaces.cell, 'cell', ADDRESSES[family].cell, String(PORT));
      const connecting = KINDS.flatMap((each) => [
        connect(each, family),
        connect(each, family, HELD, GUEST),
        ...(WAITING.includes(each)
          ? [MUTE, DEAF].flatMap((cell) => [
              connect({ ...each, name: `${each.name}, unheard` }, family, HELD, 0, cell),
              connect({ ...each, name: `${each.name}, unheard` }, family, HELD, GUEST, cell),
            ])
          : []),
        ...(each.dies ? [connect({ ...each, name: `${each.name}, unanswered` }, family, SILENT)] : []),
      ]);
      peers.push(...(await Promise.all(connecting)));
    }
    await retries(RETRIES);
    await sleep(TRAFFIC_MS);
    await hold();
    await sleep(HOLD_MS);
    // As the agent lifts it (held-sockets.test.ts): from here on it counts from the beginning of the suspension.
    await retries(RETRIES_USUAL);
    await resume();
    await sleep(TRAFFIC_MS);
    for (const { kind, program } of peers) program.tell(kind === 'idle' ? 'say' : 'end');
    const answered = peers.filter(({ name }) => !name.endsWith('unanswered'));
    for (const end = Date.now() + END_MS_MAX; Date.now() < end && answered.some(isWaiting); )
      await sleep(100);
  }, 120_000);

  afterAll(async () => {
    const programs = [...peers.map(({ program }) => program), ...Object.values(cells)];
    await Promise.all(programs.map((program) => program.kill()));
    for (const [name, datapath] of Object.entries(datapaths ?? {}))
      await remove(datapath, join(directory, name));
    await namespaces.close();
    if (directory !== undefined) await rm(directory, { recursive: true });
  });

  describe.each(FAMILIES)('%s', (family) => {
    const named = (name: string) => peers.filter((peer) => peer.family === family && peer.name === name);

    test.each(SENDERS)('$name: all arrives once and in order, and goes on at once', ({ name }) => {
      for (const { port: at, program } of named(name)) {
        const [heard, end] = cellLines(family, at);
        expect(program.lines.slice(1)).toEqual([{ sent: end?.got }]);
        expect(end?.got).toBeGreaterThan(0);
        expect(heard?.heard_ms).toBeLessThan(RESUME_MS_MAX);
      }
    });

    test.each(WAITING)('$name goes on at once, though the cell is not heard at first', ({ name, kind }) => {
      const unheard = named(`${name}, unheard`);
      expect(unheard).toHaveLength(4);
      for (const { port: at, program } of unheard) {
        const [heard, end] = cellLines(family, at);
        expect(heard?.heard_ms).toBeLessThan(WAKE_MS_MAX);
        expect(end?.got).toBe(kind === 'write' ? WRITE_BYTES : program.lines.at(-1)?.sent);
      }
    });

    test('a peer that receives: all arrives once and in order', () => {
      for (const { port: at, program } of named('a peer that receives'))
        expect(program.lines.at(-1)).toEqual({ got: cellLines(family, at).at(-1)?.sent });
    });

    test('an idle peer with aggressive keepalive', () => {
      for (const { program } of named('an idle peer with aggressive keepalive'))
        expect(program.lines.slice(1)).toEqual([{ said: true }]);
    });

    test('a peer that has closed meanwhile: what it had written arrives', () => {
      for (const { port: at, program } of named('a peer that writes and closes meanwhile')) {
        expect(program.lines.slice(1)).toEqual([{ closed: true }]);
        expect(cellLines(family, at).at(-1)).toMatchObject({ got: WRITE_BYTES });
      }
    });

    test.each(KINDS.filter(({ dies }) => dies))('$name is given up where nobody answers', ({ name }) => {
      for (const { program } of named(`${name}, unanswered`))
        expect(program.lines).toContainEqual(expect.objectContaining({ error: 'Connection timed out' }));
    });
  });

  test('what was answered is counted', async () => {
    const { answered = 0, held = 0, errors } = (await datapaths.peer.counters()) ?? {};
    expect(answered).toBeGreaterThan(peers.length);
    expect(held).toBeGreaterThanOrEqual(answered);
    // Probes of the shortest interval, 200 ms, and twice what is repeated: nothing goes round.
    expect(held).toBeLessThan((peers.length * HOLD_MS) / 100);
    expect(errors).toBe(0);
  });

  async function retries(number: number): Promise<void> {
    for (const { run } of [spaces.peer, spaces.guest])
      await run('sysctl', '-qw', `net.ipv4.tcp_retries2=${number}`);
  }

  async function hold(): Promise<void> {
    for (const id of [CELL, MUTE, DEAF]) await datapaths.host.putSide(await cellSide('fenced', id));
    for (const program of Object.values(cells)) program.tell('freeze');
    // What is on its way now is lost.
    await sleep(LOSS_MS);
    await datapaths.peer.putSide(remoteSide(HELD, 'held'));
    for (const { kind, program } of peers) if (kind === 'write') program.tell(`write ${WRITE_BYTES}`);
  }

  async function resume(): Promise<void> {
    await datapaths.peer.putSide(remoteSide(HELD, 'moved'));
    await datapaths.host.putSide({ ...(await cellSide('home')), resumed: true });
    await datapaths.host.putSide(await cellSide('home', MUTE));
    for (const program of Object.values(cells)) program.tell('thaw');
    await wake([MUTE, DEAF], false);
    await sleep(DEAF_MS);
    await datapaths.host.putSide(await cellSide('home', DEAF));
    await wake([DEAF], true);
  }

  async function wake(cellSides: readonly number[], urge: boolean): Promise<void> {
    for (const [path, sockets] of await wakingOf(cellSides)) await wakeUp(path, sockets, urge);
  }

  /** Peers of cells with these sides, by network namespace. */
  async function wakingOf(cellSides: readonly number[]): Promise<(readonly [path: string, Waking[]])[]> {
    const outside = { ifindex: await spaces.peer.ifindex('eth0'), delivered: true };
    const inside = { ...((await cellDevice(spaces.guest.path)) ?? { ifindex: 0 }), delivered: false };
    return (['peer', 'guest'] as const).map((who) => {
      const its = peers.filter(
        ({ cellSide: side, localSide }) =>
          cellSides.includes(side) && (localSide === GUEST) === (who === 'guest'),
      );
      const waking = ({ port: at, family }: Peer) => ({
        local: { address: ADDRESSES[family][who], port: at },
        remote: { address: ADDRESSES[family].cell, port: PORT },
        ...(who === 'guest' ? inside : outside),
      });
      return [spaces[who].path, its.map(waking)];
    });
  }

  /** For its own end, or for the cell's of what it has closed. */
  function isWaiting({ family, kind, port: at, program }: Peer): boolean {
    const lines = kind === 'write' ? cellLines(family, at) : program.lines.slice(1);
    return !lines.some(
      (line) => ['got', 'said', 'error'].some((key) => key in line) || (kind !== 'write' && 'sent' in line),
    );
  }

  function cellLines(family: Family, at: number): Line[] {
    return cells[family]?.lines.filter((line) => line.port === at) ?? [];
  }

  async function connect(
    { name, kind, options }: Pick<(typeof KINDS)[number], 'kind' | 'options'> & { readonly name: string },
    family: Family,
    side = HELD,
    localSide = 0,
    cellSide = CELL,
  ): Promise<Peer> {
    const { cell, peer, guest } = ADDRESSES[family];
    const address = localSide === 0 ? peer : guest;
    const at = port++;
    const remote = { address: cell, port: PORT };
    await enter(family, { address, port: at }, localSide, side, cellSide);
    const ends = [address, String(at), cell, String(remote.port)];
    const space = localSide === 0 ? spaces.peer : spaces.guest;
    const program = await start(space, 'peer', ...ends, kind, ...options);
    return { name, family, kind, port: at, localSide, cellSide, program };
  }

  /** At the peer the cell is where the host is, by a label; at the host it is in the cell. */
  async function enter(
    family: Family,
    local: Endpoint,
    localSide: number,
    remoteSide: number,
    cellSide: number,
  ): Promise<void> {
    const { host, cell, peer } = ADDRESSES[family];
    const remote = { address: cell, port: PORT };
    const label = { address: host, port: LABEL };
    const wireLocal = localSide === 0 ? local : { address: peer, port: local.port };
    const atPeer: FlowEntry = {
      protocol: 'tcp',
      local,
      remote,
      wireLocal,
      wireRemote: [{ endpoint: label, ifindex: await spaces.peer.ifindex('eth0') }, undefined],
      localSide,
      remoteSide,
      scope: localSide === 0 ? 0 : guestLink,
      via: 0,
    };
    const atHost: FlowEntry = {
      ...atPeer,
      local: remote,
      remote: local,
      wireLocal: label,
      wireRemote: [{ endpoint: wireLocal, ifindex: await spaces.host.ifindex('eth0') }, undefined],
      localSide: cellSide,
      remoteSide: 0,
      scope: await spaces.host.ifindex('cell'),
    };
    await datapaths.peer.putFlows([atPeer]);
    await datapaths.host.putFlows([atHost]);
  }

  async function cellSide(state: Side['state'], id = CELL): Promise<Side> {
    return { id, state, active: 0, accept: acceptOf(0), ifindex: await spaces.host.ifindex('cell') };
  }
});

type Program = Pick<Told, 'tell' | 'kill'> & { readonly lines: Line[] };
type Peer = {
  readonly name: string;
  readonly family: Family;
  readonly kind: string;
  readonly port: number;
  readonly localSide: number;
  readonly cellSide: number;
  readonly program: Program;
};

/** Resolves once it has said its first line. */
async function start(space: Namespace, ...argv: string[]): Promise<Program> {
  const program = space.start('python3', ENDS, ...argv);
  const lines: Line[] = [JSON.parse(await program.next())];
  const follow = async () => {
    for (;;) lines.push(JSON.parse(await program.next()));
  };
  // It ends in the end.
  follow().catch(() => {});
  return { ...program, lines };
}

function remoteSide(id: number, state: Side['state']): Side {
  return { id, state, active: 0, accept: acceptOf(0), ifindex: 0 };
}

async function topology(namespaces: Namespaces) {
  const [peer, guest, host, cell] = await Promise.all([
    namespaces.create(),
    namespaces.create(),
    namespaces.create(),
    namespaces.create(),
  ]);
  await connectHost(peer, host, 'eth0', SITE, 4);
  await routeBy(host, addressesOf(SITE, 4, 2));
  await linkCell(host, 'cell', cell);
  await giveAddresses(cell, 'lo', addressesOf(SITE, 9, 2));
  await sendBy(cell, 'eth0', addressesOf(SITE, 9, 2));
  await linkCell(peer, 'guest', guest);
  await giveAddresses(guest, 'lo', addressesOf(SITE, 8, 2));
  await sendBy(guest, 'eth0', addressesOf(SITE, 8, 2));
  return { peer, guest, host, cell };
}
