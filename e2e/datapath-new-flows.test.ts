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
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { execa } from 'execa';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { Endpoint, Protocol } from '../agent/address.ts';
import { Datapath } from '../agent/datapath/datapath.ts';
import { acceptOf } from '../agent/datapath/model.ts';
import { objectFile } from '../agent/datapath/object.ts';
import { dumpMap } from '../agent/datapath/pins.ts';
import type { Accept, Follow, WayOut } from '../agent/datapath/rules.ts';
import { runnerIn } from '../agent/datapath/run.ts';
import { link, type Namespace, Namespaces } from './namespaces.ts';
import { datapathUntestable } from './tools.ts';

const ECHO = fileURLToPath(new URL('echo.ts', import.meta.url));
const BULK_BYTES = 8 << 20;
const DATAGRAM_BYTES = 1000;
/** Set up at once, so that both processors create flows. */
const CONNECTIONS = 200;
/** Long enough for two processes to have started, and for one datagram. */
const SENDERS_START_MS = 1000;
const SENDERS_STEP_MS = 0.5;
const PORT = 7000;
const PUBLISHED = 8080;
const SERVICE = 3306;
const CELL = 1;
const PEERS_VIEW = 2;
const FLOWS_MAX = 4096;
/** The programs write down when a flow was used in units of 1.07 s. */
const SILENT_MS_MAX = 4_000;
const SILENT_MS = 5_400;
const LABELS = { first: 46_000, count: 1000 };

const ADDRESSES = {
  ipv4: { peer: '10.89.4.2', home: '10.89.1.2', beta: '10.89.2.2', inner: '10.89.3.1', side: '10.89.3.2' },
  ipv6: { peer: 'fd89:4::2', home: 'fd89:1::2', beta: 'fd89:2::2', inner: 'fd89:3::1', side: 'fd89:3::2' },
} as const;
type Family = keyof typeof ADDRESSES;

const CASES = (['ipv4', 'ipv6'] as const).flatMap((family) =>
  (['tcp', 'udp'] as const).map((protocol) => ({ family, protocol })),
);

const untestable = await datapathUntestable();

describe.skipIf(untestable !== undefined)(`new flows of a moved cell ${untestable ?? ''}`, () => {
  const namespaces = new Namespaces();
  const started: { kill(): void }[] = [];
  let directory: string;
  let spaces: Awaited<ReturnType<typeof topology>>;
  let datapaths: Record<'peer' | 'beta', Datapath>;

  beforeAll(async () => {
    directory = await mkdtemp(join(tmpdir(), 'osmosis-new-flows-'));
    spaces = await topology(namespaces);
    datapaths = { peer: await open('peer', spaces.peer), beta: await open('beta', spaces.beta) };
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
    for (const device of ['lo', 'eth0', 'eth1']) await datapaths.beta.attachDevice(device);
    await datapaths.beta.attachCell('cell');
    await datapaths.peer.attachDevice('eth0');
  });

  afterEach(async () => {
    for (const process of started.splice(0)) process.kill();
    for (const datapath of Object.values(datapaths)) {
      expect((await datapath.entries()).counters).toMatchObject({ errors: 0, clash: 0, stale: 0 });
      await datapath.removeRules((await datapath.entries()).rules.map(({ rule }) => rule));
      await datapath.removeCreated(() => true);
      for (const { id } of (await datapath.entries()).sides) await datapath.removeSide(id);
      expect(await datapath.removeIfEmpty()).toBe(true);
    }
  });

  afterAll(async () => {
    for (const datapath of Object.values(datapaths ?? {})) await datapath.close();
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
      await serve(spaces.cell, protocol, server);
      await (await call(spaces.peer, protocol, published, { address: peer, port: 51_000 }))(bytes);
      await (await call(spaces.beta, protocol, published, { address: beta, port: 51_001 }))(bytes);
      expect(await datapaths.beta.refresh()).toHaveLength(2);
    });

    test('the old address leads to where the cell is', async () => {
      await datapaths.beta.putRules([await acceptAt(family, protocol, 40_001)]);
      await datapaths.peer.putRules([await followOf(family, protocol, 40_001)]);
      await serve(spaces.cell, protocol, server);
      await (await call(spaces.peer, protocol, server, { address: peer, port: 51_002 }))(bytes);
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
        await serve(space, protocol, { address, port: SERVICE });
        await (await call(spaces.cell, protocol, { address, port: SERVICE }, { address: home, port }))(bytes);
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
    await serve(spaces.cell, 'tcp', { address: home, port: PORT });
    await serve(spaces.peer, 'tcp', { address: peer, port: SERVICE });
    await Promise.all([
      connectMany(spaces.peer, { address: ADDRESSES.ipv4.beta, port: PUBLISHED }),
      connectMany(spaces.cell, { address: peer, port: SERVICE }),
    ]);
    const flows = await datapaths.beta.refresh();
    expect(flows).toHaveLength(2 * CONNECTIONS);
    expect((await datapaths.beta.entries()).counters.created).toBe(2 * CONNECTIONS);
    expect(await dumpMap(runnerIn(undefined), join(directory, 'beta'), 'ingress')).toHaveLength(flows.length);
    expect(await datapaths.beta.removeCreated(() => true)).toHaveLength(CONNECTIONS);
    expect(await dumpMap(runnerIn(undefined), join(directory, 'beta'), 'ingress')).toEqual([]);
  });

  test('two processors that enter the same flow at once make one of it', async () => {
    const { home, peer } = ADDRESSES.ipv4;
    await datapaths.beta.putRules(await waysOut('ipv4'));
    // CLOCK_MONOTONIC: the same in all processes.
    const startNs = process.hrtime.bigint() + BigInt(SENDERS_START_MS * 1e6);
    const from = { address: home, port: 49_200 };
    await Promise.all([0, 1].map((cpu) => sendMany(spaces.cell, cpu, from, peer, startNs)));
    const flows = await datapaths.beta.refresh();
    expect(flows).toHaveLength(CONNECTIONS);
    expect(new Set(flows.map(({ wireLocal }) => wireLocal.port)).size).toBe(1);
    const { counters } = await datapaths.beta.entries();
    expect(counters).toMatchObject({ created: CONNECTIONS, translated_out: 2 * CONNECTIONS });
    expect(await datapaths.beta.removeCreated(() => true)).toHaveLength(1);
  });

  test('which flows of UDP have been silent, until they are used again', async () => {
    const { home, peer, beta } = ADDRESSES.ipv4;
    await datapaths.beta.putRules([await acceptAt('ipv4', 'udp', PUBLISHED)]);
    await serve(spaces.cell, 'udp', { address: home, port: PORT });
    const published = { address: beta, port: PUBLISHED };
    const [first, second] = await Promise.all(
      [51_020, 51_021].map((port) => call(spaces.peer, 'udp', published, { address: peer, port })),
    );
    await Promise.all([first?.(10), second?.(10)]);
    await sleep(SILENT_MS);
    await second?.(20);
    const silent = async () => (await datapaths.beta.idle(SILENT_MS_MAX)).map(({ remote }) => remote.port);
    expect(await silent()).toEqual([51_020]);
    await first?.(30);
    expect(await silent()).toEqual([]);
  });

  test('more SYNs than the rule may create flows for harm nobody who is there', async () => {
    const { peer, home } = ADDRESSES.ipv4;
    const accept = await acceptAt('ipv4', 'tcp', PUBLISHED);
    await datapaths.beta.putRules([{ ...accept, flowsMax: 10 }]);
    await serve(spaces.cell, 'tcp', { address: home, port: PORT });
    const published = { address: ADDRESSES.ipv4.beta, port: PUBLISHED };
    const echo = await call(spaces.peer, 'tcp', published, { address: peer, port: 51_003 });
    // Nobody answers from these ports, and their SYNs come again: only the first few become flows.
    await connectMany(spaces.peer, published, 'nowait');
    await echo(BULK_BYTES);
    expect(await datapaths.beta.refresh()).toHaveLength(10);
    expect((await datapaths.beta.entries()).counters.full).toBeGreaterThan(0);
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

  /** Answers with a function that resolves when so many bytes have come back. */
  async function call(space: Namespace, protocol: Protocol, to: Endpoint, from: Endpoint) {
    const process = inNamespace(space, 'call', protocol, to, from);
    const lines = createInterface(process.stdout)[Symbol.asyncIterator]();
    expect(await lines.next()).toEqual({ done: false, value: 'ready' });
    return async (bytes: number): Promise<void> => {
      process.stdin.write(`${bytes}\n`);
      expect((await lines.next()).value).toMatch(new RegExp(`^${bytes} `));
    };
  }

  async function serve(space: Namespace, protocol: Protocol, at: Endpoint): Promise<void> {
    const lines = createInterface(inNamespace(space, 'serve', protocol, at).stdout)[Symbol.asyncIterator]();
    expect(await lines.next()).toEqual({ done: false, value: 'ready' });
  }

  function inNamespace(space: Namespace, role: 'serve' | 'call', protocol: Protocol, ...ends: Endpoint[]) {
    const endpoints = ends.flatMap(({ address, port }) => [address, String(port)]);
    const argv = [`--net=${space.path}`, '--', process.execPath, ECHO, role, protocol, ...endpoints];
    const child = execa('nsenter', argv, { stdin: 'pipe', buffer: false, reject: false, stderr: 'inherit' });
    started.push(child);
    return child;
  }

  async function open(name: string, { path }: Namespace): Promise<Datapath> {
    return await Datapath.open({
      pinDir: join(directory, name),
      objectFile: await objectFile(),
      netns: path,
    });
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

/** From one processor a datagram to each of CONNECTIONS ports, at times that are the same for all that send. */
async function sendMany(space: Namespace, cpu: number, from: Endpoint, to: string, startNs: bigint) {
  const script = `
    const socket = require('node:dgram').createSocket({ type: 'udp4', reusePort: true });
    socket.bind(${from.port}, '${from.address}', async () => {
      for (let i = 0; i < ${CONNECTIONS}; i++) {
        const due = ${startNs}n + BigInt(i * ${SENDERS_STEP_MS * 1e6});
        while (process.hrtime.bigint() < due);
        await new Promise((sent) => socket.send('x', 20_000 + i, '${to}', sent));
      }
      socket.close();
    });`;
  await space.run('taskset', '-c', String(cpu), process.execPath, '-e', script);
}

async function topology(namespaces: Namespaces) {
  const [peer, router, beta, side, cell] = await Promise.all([
    namespaces.create(),
    namespaces.create(),
    namespaces.create(),
    namespaces.create(),
    namespaces.create(),
  ]);
  await router.run('sysctl', '-qw', 'net.ipv4.ip_forward=1', 'net.ipv6.conf.all.forwarding=1');
  for (const [space, net] of [
    [peer, 4],
    [beta, 2],
  ] as const) {
    await link(space, 'eth0', router, `net${net}`);
    await router.ip(
      `addr add 10.89.${net}.1/24 dev net${net}`,
      `addr add fd89:${net}::1/64 dev net${net} nodad`,
    );
    await space.ip(
      `addr add 10.89.${net}.2/24 dev eth0`,
      `addr add fd89:${net}::2/64 dev eth0 nodad`,
      `route add default via 10.89.${net}.1`,
      `-6 route add default via fd89:${net}::1`,
    );
  }
  await link(beta, 'eth1', side, 'eth0');
  await beta.ip('addr add 10.89.3.1/24 dev eth1', 'addr add fd89:3::1/64 dev eth1 nodad');
  await side.ip('addr add 10.89.3.2/24 dev eth0', 'addr add fd89:3::2/64 dev eth0 nodad');
  await link(beta, 'cell', cell, 'eth0');
  const mac = await beta.mac('cell');
  await cell.ip(
    `addr add ${ADDRESSES.ipv4.home}/32 dev lo`,
    `addr add ${ADDRESSES.ipv6.home}/128 dev lo nodad`,
    `neigh add 169.254.1.1 lladdr ${mac} dev eth0 nud permanent`,
    `-6 neigh add fe80::1 lladdr ${mac} dev eth0 nud permanent`,
    `route add default via 169.254.1.1 dev eth0 src ${ADDRESSES.ipv4.home} onlink`,
    '-6 route add default via fe80::1 dev eth0',
  );
  return { peer, router, beta, side, cell };
}
