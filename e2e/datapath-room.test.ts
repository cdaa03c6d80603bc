/**
 * Datagrams that wait in a room until their side is there again: real sockets in network namespaces.
 *
 *     guest --- peer 10.86.4.2 ------- host 10.86.4.1: what the peer knows as 10.86.9.2:7000 is its port 40000
 *
 * `guest` is the inside of a cell on the peer: its sockets are not the host's own.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { Batch } from '../agent/datapath/batch.ts';
import { updateLine } from '../agent/datapath/bpftool.ts';
import type { Datapath } from '../agent/datapath/datapath.ts';
import { encodeId, encodeRoom } from '../agent/datapath/layout.ts';
import { acceptOf, type FlowEntry, type Side } from '../agent/datapath/model.ts';
import { ROOM_BYTES_MAX } from '../agent/datapath/rooms.ts';
import { clear, openDatapath, remove } from './datapaths.ts';
import { type Namespace, Namespaces } from './namespaces.ts';
import { addressesOf, connectHost, giveAddresses, linkCell, routeBy, sendBy } from './networks.ts';
import { datapathUntestable } from './tools.ts';

const ENDS = fileURLToPath(new URL('room-ends.py', import.meta.url));
const REMOTE = 1;
const GUEST = 2;
const LOCAL = 3;
const PORT = 7000;
const LABEL = 40_000;
/** What goes straight on has arrived after this. */
const ARRIVAL_MS = 100;
/** Becomes three fragments. */
const LONG_BYTES = 4_000;
/** At least so much kernel memory for each datagram. */
const OVERHEAD_BYTES_MIN = 512;

const SITE = 86;
const ADDRESSES = {
  ipv4: { peer: '10.86.4.2', host: '10.86.4.1', cell: '10.86.9.2', guest: '10.86.8.2' },
  ipv6: { peer: 'fd86:4::2', host: 'fd86:4::1', cell: 'fd86:9::2', guest: 'fd86:8::2' },
} as const;
type Family = keyof typeof ADDRESSES;
const CASES = (['ipv4', 'ipv6'] as const).flatMap((family) =>
  (['host', 'cell'] as const).map((socket) => ({ family, socket })),
);

const untestable = await datapathUntestable();

describe.skipIf(untestable !== undefined)(`datagrams that wait ${untestable ?? ''}`, () => {
  const namespaces = new Namespaces();
  const ends: { kill(): void }[] = [];
  let directory: string;
  let spaces: Record<'peer' | 'guest' | 'host', Namespace>;
  let datapath: Datapath;
  let port = 52_000;

  beforeAll(async () => {
    directory = await mkdtemp(join(tmpdir(), 'osmosis-room-'));
    spaces = await topology(namespaces);
    datapath = await open();
    await datapath.attachDevice('eth0');
    await datapath.attachCell('guest');
  }, 60_000);

  beforeEach(async () => {
    await datapath.putSide(side(REMOTE, 'moved'));
    await datapath.putSide({ ...side(GUEST, 'home'), ifindex: await spaces.peer.ifindex('guest') });
    await datapath.putSide(side(LOCAL, 'home'));
  });

  afterEach(async () => {
    await Promise.all(ends.splice(0).map((end) => end.kill()));
    await clear(datapath, pinDir());
    expect(await spaces.peer.run('ip', '-o', 'link')).not.toMatch(/osm/);
  });

  afterAll(async () => {
    if (datapath !== undefined) await remove(datapath, pinDir());
    await namespaces.close();
    if (directory !== undefined) await rm(directory, { recursive: true });
  });

  describe.each(CASES)('$family, of a socket of a $socket', ({ family, socket }) => {
    test('all arrive once and in order, of any length, with those that come meanwhile', async () => {
      const { sender, taken } = await flow(family, socket);
      await sender('10 100');
      await hold();
      await sender('100 100');
      await sender(`10 ${LONG_BYTES}`);
      await sender('64 300 1');
      await sleep(ARRIVAL_MS);
      expect(await taken()).toEqual(upTo(10));
      await datapath.putSide({ ...side(REMOTE, 'moved'), waits: true });
      await sender('50 100');
      const released = datapath.releaseRoom(REMOTE);
      for (let each = 0; each < 20; each++) await sender('1 100');
      expect(await released).toMatchObject({ late: 0 });
      await sender('10 100');
      await sleep(ARRIVAL_MS);
      expect([...(await taken())].sort((a, b) => a - b)).toEqual(upTo(264));
      // Of two datagrams at the very moment of the release either may come first.
      expect((await taken()).filter((number) => number < 234)).toEqual(upTo(234));
      expect(await datapath.counters()).toMatchObject({ held: 0, errors: 0 });
    });

    test('no more than there is room for: the newest are kept, the others counted, and no sender is stopped', async () => {
      const { sender, taken } = await flow(family, socket);
      await hold();
      const bytes = 1_000;
      const count = 2 * Math.floor(ROOM_BYTES_MAX / bytes);
      expect(await sender(`${count} ${bytes}`)).toEqual({ sent: count, blocked: 0 });
      await datapath.putSide({ ...side(REMOTE, 'moved'), waits: true });
      const counts = await datapath.releaseRoom(REMOTE);
      await sleep(ARRIVAL_MS);
      const came = await taken();
      expect(came).toEqual(upTo(count).slice(-came.length));
      expect(counts).toMatchObject({ came: count, left: came.length, late: 0 });
      expect(came.length).toBeLessThan(ROOM_BYTES_MAX / (bytes + OVERHEAD_BYTES_MIN));
      expect(came.length).toBeGreaterThan(ROOM_BYTES_MAX / (4 * bytes));
    });
  });

  test('a socket with an ordinary receive buffer gets more than that takes at once', async () => {
    const { sender, taken } = await flow('ipv4', 'host', 'default');
    await hold();
    await sender('1500 200');
    await datapath.putSide({ ...side(REMOTE, 'moved'), waits: true });
    expect(await datapath.releaseRoom(REMOTE)).toMatchObject({ came: 1500, left: 1500 });
    await sleep(ARRIVAL_MS);
    // A busy machine may not let it run in time; at once it would be some 170.
    expect((await taken()).length).toBeGreaterThan(500);
  });

  test('what has waited for too long is dropped when it comes out', async () => {
    const { sender, taken } = await flow('ipv4', 'host');
    await hold();
    await sender('5 100');
    await sleep(300);
    await lateAfter(200);
    await sender('5 100');
    await datapath.putSide({ ...side(REMOTE, 'moved'), waits: true });
    // Setting the limit has begun the count anew.
    expect(await datapath.releaseRoom(REMOTE)).toMatchObject({ came: 5, left: 5, late: 5 });
    await sleep(ARRIVAL_MS);
    expect(await taken()).toEqual([5, 6, 7, 8, 9]);
    expect(await datapath.counters()).toMatchObject({ waited: 10, let_out: 5, late: 5 });
  });

  test('without a room they are dropped, and counted', async () => {
    const { sender, taken } = await flow('ipv4', 'host');
    await datapath.putSide(side(REMOTE, 'held'));
    await sender('5 100');
    await datapath.putSide(side(REMOTE, 'moved'));
    await sender('5 100');
    await sleep(ARRIVAL_MS);
    expect(await taken()).toEqual([5, 6, 7, 8, 9]);
    expect(await datapath.counters()).toMatchObject({ held: 5, waited: 0 });
  });

  test('they wait on while no agent runs; the next one lets them out, or forgets them with their side', async () => {
    const { sender, taken } = await flow('ipv4', 'host');
    await hold();
    await sender('5 100');
    await datapath.close();
    await sender('5 100');
    datapath = await open();
    await sender('5 100');
    expect((await datapath.entries()).rooms).toMatchObject([{ side: REMOTE, came: 15 }]);
    await datapath.putSide({ ...side(REMOTE, 'moved'), waits: true });
    expect(await datapath.releaseRoom(REMOTE)).toMatchObject({ came: 15, left: 15 });
    await sleep(ARRIVAL_MS);
    expect(await taken()).toEqual(upTo(15));
    await hold();
    await sender('5 100');
    await datapath.close();
    datapath = await open();
  });

  test('what is said by a local end that is not told of yet', async () => {
    const { sender, taken } = await flow('ipv4', 'host');
    await datapath.openRoom(LOCAL);
    await datapath.putSide({ ...side(LOCAL, 'queued'), waits: true });
    await sender('20 100');
    await sleep(ARRIVAL_MS);
    expect(await taken()).toEqual([]);
    await datapath.putSide({ ...side(LOCAL, 'home'), waits: true });
    expect(await datapath.releaseRoom(LOCAL)).toMatchObject({ came: 20, left: 20 });
    await sleep(ARRIVAL_MS);
    expect(await taken()).toEqual(upTo(20));
  });

  test('held again while they come out: nothing goes round', async () => {
    const { sender, taken } = await flow('ipv4', 'host');
    await hold();
    await sender('20 100');
    expect(await datapath.releaseRoom(REMOTE)).toMatchObject({ left: 0 });
    await sleep(ARRIVAL_MS);
    expect(await taken()).toEqual([]);
    expect(await datapath.counters()).toMatchObject({ let_out: 0, held: 20, errors: 0 });
  });

  async function hold(): Promise<void> {
    expect(await datapath.openRoom(REMOTE)).toBe(true);
    await datapath.putSide({ ...side(REMOTE, 'held'), waits: true });
  }

  async function lateAfter(ms: number): Promise<void> {
    const [room] = (await datapath.entries()).rooms;
    if (room === undefined) throw new Error('there is no room');
    const batch = new Batch();
    await batch.run([updateLine(pinDir(), 'rooms', encodeId(room.far), encodeRoom(room, ms))]);
    await batch.close();
  }

  /** A sender at the peer, or in its cell, and who takes what arrives at the host. */
  async function flow(family: Family, socket: 'host' | 'cell', buffer = 'large') {
    const { peer, host, cell, guest } = ADDRESSES[family];
    const isHost = socket === 'host';
    const local = { address: isHost ? peer : guest, port: port++ };
    const entry: FlowEntry = {
      protocol: 'udp',
      local,
      remote: { address: cell, port: PORT },
      wireLocal: { address: peer, port: local.port },
      wireRemote: [
        { endpoint: { address: host, port: LABEL }, ifindex: await spaces.peer.ifindex('eth0') },
        undefined,
      ],
      localSide: isHost ? LOCAL : GUEST,
      remoteSide: REMOTE,
      scope: isHost ? 0 : await spaces.peer.ifindex('guest'),
      via: 0,
    };
    await datapath.putFlows([entry]);
    const [taker, sender] = await Promise.all([
      start(spaces.host, 'take', host, String(LABEL), buffer),
      start(
        isHost ? spaces.peer : spaces.guest,
        'send',
        local.address,
        String(local.port),
        cell,
        String(PORT),
      ),
    ]);
    ends.push(taker, sender);
    return {
      sender: sender.ask,
      taken: async () => ((await taker.ask('report')) as Record<string, number[]>)[local.port] ?? [],
    };
  }

  function pinDir(): string {
    return join(directory, 'bpf');
  }

  async function open(): Promise<Datapath> {
    return await openDatapath(pinDir(), spaces.peer);
  }
});

function side(id: number, state: Side['state']): Side {
  return { id, state, active: 0, accept: acceptOf(0), ifindex: 0 };
}

function upTo(count: number): number[] {
  return Array.from({ length: count }, (_, number) => number);
}

/** Resolves once it is ready. `ask`: says a line, and answers with the one that comes back. */
async function start(space: Namespace, ...argv: string[]) {
  const end = space.start('python3', ENDS, ...argv);
  const next = async (): Promise<unknown> => JSON.parse(await end.next());
  await next();
  return {
    ask: async (line: string) => {
      end.tell(line);
      return await next();
    },
    kill: end.kill,
  };
}

async function topology(namespaces: Namespaces) {
  const [peer, guest, host] = await Promise.all([
    namespaces.create(),
    namespaces.create(),
    namespaces.create(),
  ]);
  await connectHost(peer, host, 'eth0', SITE, 4);
  await routeBy(host, addressesOf(SITE, 4, 2));
  await linkCell(peer, 'guest', guest);
  await giveAddresses(guest, 'lo', addressesOf(SITE, 8, 2));
  await sendBy(guest, 'eth0', addressesOf(SITE, 8, 2));
  return { peer, guest, host };
}
