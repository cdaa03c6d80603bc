/**
 * New connections to and from a cell that has moved, between network namespaces. No process moves here: the cell is at
 * beta from the start, with addresses that are of another net.
 *
 *     peer 10.89.4.2 --- router --- beta 10.89.2.2 --- cell 10.89.1.2
 *                                     10.89.3.1
 *                                        |
 *     side  10.89.3.2 -------------------+
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { Endpoint, Protocol } from '../agent/address.ts';
import type { Datapath } from '../agent/datapath/datapath.ts';
import { acceptOf } from '../agent/datapath/model.ts';
import { dumpMap } from '../agent/datapath/pins.ts';
import type { Accept, Follow, WayOut } from '../agent/datapath/rules.ts';
import { runnerIn } from '../agent/datapath/run.ts';
import { clear, openDatapath, remove } from './datapaths.ts';
import { Echoes } from './echoes.ts';
import { link, type Namespace, Namespaces, type Told } from './namespaces.ts';
import { addressesOf, addTo, connectHost, forward, giveAddresses, linkCell, sendBy } from './networks.ts';
import { datapathUntestable } from './tools.ts';

const BULK_BYTES = 8 << 20;
const DATAGRAM_BYTES = 1000;
/** Set up at once, so that both processors create flows. */
const CONNECTIONS = 200;
/** Long enough for two processes to hear when to begin, and for one datagram. */
const SENDERS_START_MS = 100;
const SENDERS_STEP_MS = 0.5;
const PORT = 7000;
const PUBLISHED = 8080;
const SERVICE = 3306;
const CELL = 1;
const PEERS_VIEW = 2;
const FLOWS_MAX = 4096;
/** The programs write down when a flow was used in units of 1.07 s. */
const SILENT_MS_MAX = 2_200;
const SILENT_WAIT = { timeout: 10_000, interval: 200 };
const LABELS = { first: 46_000, count: 1000 };

const SITE = 89;
const ADDRESSES = {
  ipv4: { peer: '10.89.4.2', home: '10.89.1.2', beta: '10.89.2.2', inner: '10.89.3.1', side: '10.89.3.2' },
  ipv6: { peer: 'fd89:4::2', home: 'fd89:1::2', beta: 'fd89:2::2', inner: 'fd89:3::1', side: 'fd89:3::2' },
} as const;
type Family = keyof typeof ADDRESSES;
const NAMES = ['peer', 'beta'] as const;

const CASES = (['ipv4', 'ipv6'] as const).flatMap((family) =>
  (['tcp', 'udp'] as const).map((protocol) => ({ family, protocol })),
);

const untestable = await datapathUntestable();

describe.skipIf(untestable !== undefined)(`new flows of a moved cell ${untestable ?? ''}`, () => {
  const namespaces = new Namespaces();
  let directory: string;
  let echoes: Echoes;
  let spaces: Awaited<ReturnType<typeof topology>>;
  let datapaths: Record<(typeof NAMES)[number], Datapath>;

  beforeAll(async () => {
    directory = await mkdtemp(join(tmpdir(), 'osmosis-new-flows-'));
    echoes = new Echoes(join(directory, 'cache'));
    spaces = await topology(namespaces);
    datapaths = { peer: await open('peer'), beta: await open('beta') };
    for (const device of ['lo', 'eth0', 'eth1']) await datapaths.beta.attachDevice(device);
    await datapaths.beta.attachCell('cell');
    await datapaths.peer.attachDevice('eth0');
  });

  beforeEach(async () => {
    const ifindex = await spaces.beta.ifindex('cell');
    await datapaths.beta.putSide({ id: CELL, state: 'home', active: 0, accept: acceptOf(0), ifindex });
    await datapaths.peer.putSide({
      id: PEERS_VIEW,
      state: 'moved',
      active: 1,
      accept: acceptOf(1),
      ifindex: 0,
    });
  });

  afterEach(async () => {
    await echoes.end();
    for (const name of NAMES) {
      expect(await datapaths[name].counters()).toMatchObject({ errors: 0, clash: 0, stale: 0 });
      await clear(datapaths[name], pinDir(name));
    }
  });

  afterAll(async () => {
    for (const [name, datapath] of Object.entries(datapaths ?? {})) await remove(datapath, pinDir(name));
    await namespaces.close();
    if (directory !== undefined) await rm(directory, { recursive: true });
  });

  describe.each(CASES)('$protocol over $family', ({ family, protocol }) => {
    const { peer, home, beta, side } = ADDRESSES[family];
    const bytes = protocol === 'tcp' ? BULK_BYTES : DATAGRAM_BYTES;
    const server = { address: home, port: PORT };

    test('a published port leads into the cell, for a far client and for one on the same host', async () => {
      const published = { address: beta, port: PUBLISHED };
      await datapaths.beta.putRules([await acceptAt(family, protocol, PUBLISHED)]);
      await echoes.serve(spaces.cell, protocol, server);
      await (await echoes.call(spaces.peer, protocol, published, { address: peer, port: 51_000 })).echo(
        bytes,
      );
      await (await echoes.call(spaces.beta, protocol, published, { address: beta, port: 51_001 })).echo(
        bytes,
      );
      expect(await datapaths.beta.refresh()).toHaveLength(2);
    });

    test('the old address leads to where the cell is', async () => {
      await datapaths.beta.putRules([await acceptAt(family, protocol, 40_001)]);
      await datapaths.peer.putRules([await followOf(family, protocol, 40_001)]);
      await echoes.serve(spaces.cell, protocol, server);
      await (await echoes.call(spaces.peer, protocol, server, { address: peer, port: 51_002 })).echo(bytes);
      expect(await datapaths.peer.refresh()).toHaveLength(1);
    });

    test('the cell calls a far service, one by another device, and one on its own host', async () => {
      await datapaths.beta.putRules(await waysOut(family));
      const places: [Namespace, string][] = [
        [spaces.peer, peer],
        [spaces.side, side],
        [spaces.beta, beta],
      ];
      let port = 49_152;
      for (const [space, address] of places) {
        await echoes.serve(space, protocol, { address, port: SERVICE });
        await (
          await echoes.call(spaces.cell, protocol, { address, port: SERVICE }, { address: home, port })
        ).echo(bytes);
        port += 1;
      }
      const flows = await datapaths.beta.refresh();
      const own = new Map(flows.map((flow) => [flow.remote.address, flow.wireLocal.address]));
      expect(own).toEqual(
        new Map([
          [peer, beta],
          [side, ADDRESSES[family].inner],
          [beta, beta],
        ]),
      );
    });
  });

  test('many connections at once: each is one flow, and the labels of all come back', async () => {
    const { home, peer } = ADDRESSES.ipv4;
    await datapaths.beta.putRules([await acceptAt('ipv4', 'tcp', PUBLISHED), ...(await waysOut('ipv4'))]);
    await echoes.serve(spaces.cell, 'tcp', { address: home, port: PORT });
    await echoes.serve(spaces.peer, 'tcp', { address: peer, port: SERVICE });
    await Promise.all([
      connectMany(spaces.peer, { address: ADDRESSES.ipv4.beta, port: PUBLISHED }),
      connectMany(spaces.cell, { address: peer, port: SERVICE }),
    ]);
    const flows = await datapaths.beta.refresh();
    expect(flows).toHaveLength(2 * CONNECTIONS);
    expect((await datapaths.beta.counters())?.created).toBe(2 * CONNECTIONS);
    expect(await dumpMap(runnerIn(undefined), pinDir('beta'), 'ingress')).toHaveLength(flows.length);
    expect(await datapaths.beta.removeCreated(() => true)).toHaveLength(CONNECTIONS);
    expect(await dumpMap(runnerIn(undefined), pinDir('beta'), 'ingress')).toEqual([]);
  });

  test('two processors that enter the same flow at once make one of it', async () => {
    const { home, peer } = ADDRESSES.ipv4;
    await datapaths.beta.putRules(await waysOut('ipv4'));
    const from = { address: home, port: 49_200 };
    const senders = await Promise.all([0, 1].map((cpu) => senderOf(spaces.cell, cpu, from, peer)));
    // CLOCK_MONOTONIC: the same in all processes.
    const startNs = process.hrtime.bigint() + BigInt(SENDERS_START_MS * 1e6);
    for (const { tell } of senders) tell(String(startNs));
    for (const { next } of senders) expect(await next()).toBe('sent');
    const flows = await datapaths.beta.refresh();
    expect(flows).toHaveLength(CONNECTIONS);
    expect(new Set(flows.map(({ wireLocal }) => wireLocal.port)).size).toBe(1);
    expect(await datapaths.beta.counters()).toMatchObject({
      created: CONNECTIONS,
      translated_out: 2 * CONNECTIONS,
    });
    expect(await datapaths.beta.removeCreated(() => true)).toHaveLength(1);
  });

  test('which flows of UDP have been silent, until they are used again', async () => {
    const { home, peer, beta } = ADDRESSES.ipv4;
    await datapaths.beta.putRules([await acceptAt('ipv4', 'udp', PUBLISHED)]);
    await echoes.serve(spaces.cell, 'udp', { address: home, port: PORT });
    const published = { address: beta, port: PUBLISHED };
    const [first, second] = await Promise.all(
      [51_020, 51_021].map((port) => echoes.call(spaces.peer, 'udp', published, { address: peer, port })),
    );
    await Promise.all([first?.echo(10), second?.echo(10)]);
    const silent = async () => {
      await second?.echo(20);
      return (await datapaths.beta.idle(SILENT_MS_MAX)).map(({ remote }) => remote.port);
    };
    expect(await silent()).toEqual([]);
    await expect.poll(silent, SILENT_WAIT).toEqual([51_020]);
    await first?.echo(30);
    expect(await silent()).toEqual([]);
  });

  test('more SYNs than the rule may create flows for harm nobody who is there', async () => {
    const { peer, home } = ADDRESSES.ipv4;
    const accept = await acceptAt('ipv4', 'tcp', PUBLISHED);
    await datapaths.beta.putRules([{ ...accept, flowsMax: 10 }]);
    await echoes.serve(spaces.cell, 'tcp', { address: home, port: PORT });
    const published = { address: ADDRESSES.ipv4.beta, port: PUBLISHED };
    const client = await echoes.call(spaces.peer, 'tcp', published, { address: peer, port: 51_003 });
    // Nobody answers from these ports, and their SYNs come again: only the first few become flows.
    await connectMany(spaces.peer, published, 'nowait');
    await client.echo(BULK_BYTES);
    expect(await datapaths.beta.refresh()).toHaveLength(10);
    expect((await datapaths.beta.counters())?.full).toBeGreaterThan(0);
  });

  async function acceptAt(family: Family, protocol: Protocol, port: number): Promise<Accept> {
    const { home, beta } = ADDRESSES[family];
    return {
      kind: 'accept',
      protocol,
      wire: { address: beta, port },
      local: { address: home, port: PORT },
      localSide: CELL,
      scope: await spaces.beta.ifindex('cell'),
      flowsMax: FLOWS_MAX,
    };
  }

  async function followOf(family: Family, protocol: Protocol, label: number): Promise<Follow> {
    const { home, beta } = ADDRESSES[family];
    return {
      kind: 'follow',
      protocol,
      remote: { address: home, port: PORT },
      to: { endpoint: { address: beta, port: label }, ifindex: await spaces.peer.ifindex('eth0') },
      remoteSide: PEERS_VIEW,
      flowsMax: FLOWS_MAX,
    };
  }

  /** As the host's routes are: the net behind eth1, its own address, and all the rest. */
  async function waysOut(family: Family): Promise<WayOut[]> {
    const { beta, inner, side } = ADDRESSES[family];
    const ipv6 = family === 'ipv6';
    const rule = {
      kind: 'way_out',
      scope: await spaces.beta.ifindex('cell'),
      localSide: CELL,
      labels: LABELS,
      flowsMax: FLOWS_MAX,
    } as const;
    const [eth0, eth1, lo] = await Promise.all(['eth0', 'eth1', 'lo'].map(spaces.beta.ifindex));
    if (eth0 === undefined || eth1 === undefined || lo === undefined) throw new RangeError('three devices');
    return [
      { ...rule, prefix: ipv6 ? '::' : '0.0.0.0', bits: 0, address: beta, ifindex: eth0 },
      { ...rule, prefix: side, bits: ipv6 ? 64 : 24, address: inner, ifindex: eth1 },
      { ...rule, prefix: beta, bits: ipv6 ? 128 : 32, address: beta, ifindex: lo },
    ];
  }

  async function open(name: (typeof NAMES)[number]): Promise<Datapath> {
    return await openDatapath(pinDir(name), spaces[name]);
  }

  function pinDir(name: string): string {
    return join(directory, name);
  }
});

/** CONNECTIONS at once from one process, which ends when all have sent and got back a byte, or right away. */
async function connectMany(space: Namespace, { address, port }: Endpoint, nowait = ''): Promise<void> {
  const script = `
    const { connect } = require('node:net');
    let left = ${CONNECTIONS};
    for (let i = left; i > 0; i--) {
      const socket = connect(${port}, '${address}', () => socket.write('x'));
      socket.on('data', () => { left -= 1; if (left === 0) process.exit(0); });
    }
    if ('${nowait}') setTimeout(() => process.exit(0), 300);`;
  await space.run(process.execPath, '-e', script);
}

/**
 * From one processor a datagram to each of CONNECTIONS ports, at times that are the same for all that are told the same
 * beginning, of CLOCK_MONOTONIC in ns. Resolves once it can be told.
 */
async function senderOf(space: Namespace, cpu: number, from: Endpoint, to: string): Promise<Told> {
  const script = `
    const socket = require('node:dgram').createSocket({ type: 'udp4', reusePort: true });
    process.stdin.once('end', () => process.exit()).once('data', async (startNs) => {
      for (let i = 0; i < ${CONNECTIONS}; i++) {
        const due = BigInt(startNs) + BigInt(i * ${SENDERS_STEP_MS * 1e6});
        while (process.hrtime.bigint() < due);
        await new Promise((sent) => socket.send('x', 20_000 + i, '${to}', sent));
      }
      console.log('sent');
      process.exit();
    });
    socket.bind(${from.port}, '${from.address}', () => console.log('ready'));`;
  const sender = space.start('taskset', '-c', String(cpu), process.execPath, '-e', script);
  expect(await sender.next()).toBe('ready');
  return sender;
}

async function topology(namespaces: Namespaces) {
  const [peer, router, beta, side, cell] = await Promise.all([
    namespaces.create(),
    namespaces.create(),
    namespaces.create(),
    namespaces.create(),
    namespaces.create(),
  ]);
  await forward(router);
  await connectHost(peer, router, 'net4', SITE, 4);
  await connectHost(beta, router, 'net2', SITE, 2);
  await link(beta, 'eth1', side, 'eth0');
  await addTo(beta, 'eth1', SITE, 3, 1);
  await addTo(side, 'eth0', SITE, 3, 2);
  await linkCell(beta, 'cell', cell);
  await giveAddresses(cell, 'lo', addressesOf(SITE, 1, 2));
  await sendBy(cell, 'eth0', addressesOf(SITE, 1, 2));
  return { peer, router, beta, side, cell };
}
