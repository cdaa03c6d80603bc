/**
 * What a translated flow has to do with the path between its ends: path MTU discovery, fragments, unreachable ports, the
 * devices it can go by. As in datapath.test.ts the cell has a veth to both hosts; which one it uses says where it is.
 *
 *     peer 10.88.4.2 --- router --- alpha 10.88.1.2 ------------------+
 *                          | MTU 1300                                cell, has alpha's addresses
 *                        narrow --- beta 10.88.2.2 -------------------+
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import type { Endpoint, Protocol } from '../agent/address.ts';
import type { Datapath } from '../agent/datapath/datapath.ts';
import { acceptOf, type Side, type WireSlot } from '../agent/datapath/model.ts';
import { clear, openDatapath, remove } from './datapaths.ts';
import { Echoes } from './echoes.ts';
import { type Namespace, Namespaces, type Told } from './namespaces.ts';
import { addressesOf, connectHost, forward, giveAddresses, linkCell, sendBy } from './networks.ts';
import { datapathUntestable } from './tools.ts';

/** Many round trips of full segments both ways. */
const BULK_BYTES = 8 << 20;
const NARROW_BYTES = 1300;
/** Three fragments of an Ethernet frame each. */
const FRAGMENTED_BYTES = 4000;
/** One frame on Ethernet, too long for the narrow link. */
const DATAGRAM_BYTES = 1400;
const PORT = 7000;
const CELL = 1;
const PEERS_VIEW = 2;
const WAIT = { timeout: 5_000, interval: 50 };

const SITE = 88;
const ADDRESSES = {
  ipv4: { peer: '10.88.4.2', alpha: '10.88.1.2', beta: '10.88.2.2' },
  ipv6: { peer: 'fd88:4::2', alpha: 'fd88:1::2', beta: 'fd88:2::2' },
} as const;
/** The neighbour that packets wait for, as in cell/namespaces.ts. */
const WAITING = { ipv4: '169.254.1.2', ipv6: 'fe80::2' } as const;
type Family = keyof typeof ADDRESSES;
const HOSTS = ['alpha', 'beta'] as const;
type Host = (typeof HOSTS)[number];
const NAMES = ['peer', ...HOSTS] as const;

const untestable = await datapathUntestable();

describe.skipIf(untestable !== undefined)(`the path of a translated flow ${untestable ?? ''}`, () => {
  const namespaces = new Namespaces();
  let directory: string;
  let echoes: Echoes;
  let spaces: Record<'peer' | 'cell' | Host, Namespace>;
  let datapaths: Record<'peer' | Host, Datapath>;

  beforeAll(async () => {
    directory = await mkdtemp(join(tmpdir(), 'osmosis-path-'));
    echoes = new Echoes(join(directory, 'cache'));
    spaces = await topology(namespaces);
    datapaths = { peer: await open('peer'), alpha: await open('alpha'), beta: await open('beta') };
    for (const name of NAMES) await datapaths[name].attachDevice('eth0');
    for (const host of HOSTS) await datapaths[host].attachCell('cell');
  });

  afterEach(async () => {
    await echoes.end();
    for (const name of NAMES) await clear(datapaths[name], pinDir(name));
    for (const space of [spaces.peer, spaces.cell])
      for (const family of ['-4', '-6']) await space.run('ip', family, 'route', 'flush', 'cache');
  });

  afterAll(async () => {
    for (const [name, datapath] of Object.entries(datapaths ?? {})) await remove(datapath, pinDir(name));
    await namespaces.close();
    if (directory !== undefined) await rm(directory, { recursive: true });
  });

  describe.each(['ipv4', 'ipv6'] as const)('%s', (family) => {
    test('TCP goes on after a move to where the path MTU is smaller, in bulk, both ways', async () => {
      await enter(family, 'tcp', 52000);
      const client = await call(family, 'tcp', 52000);
      await client.echo(BULK_BYTES);
      await move('beta');
      await client.echo(BULK_BYTES);
      for (const host of ['peer', 'beta'] as const) {
        const counters = await datapaths[host].counters();
        expect(counters?.errors).toBe(0);
        expect(counters?.icmp).toBeGreaterThan(0);
      }
      expect(await pathMtu(spaces.cell, ADDRESSES[family].peer)).toBe(NARROW_BYTES);
      expect(await pathMtu(spaces.peer, ADDRESSES[family].alpha)).toBe(NARROW_BYTES);
    });

    test('UDP learns the path MTU as well', async () => {
      await enter(family, 'udp', 52001);
      await move('beta');
      const client = await call(family, 'udp', 52001);
      // The first one is too long for the path, and both ends hear of it; those after it are sent in fragments.
      expect(await client.say(DATAGRAM_BYTES)).toBe(`${DATAGRAM_BYTES} EMSGSIZE`);
      await client.echo(DATAGRAM_BYTES);
      expect(await pathMtu(spaces.cell, ADDRESSES[family].peer)).toBe(NARROW_BYTES);
      expect(await pathMtu(spaces.peer, ADDRESSES[family].alpha)).toBe(NARROW_BYTES);
    });

    test('datagrams in fragments', async () => {
      await enter(family, 'udp', 52002);
      const client = await call(family, 'udp', 52002);
      await client.echo(FRAGMENTED_BYTES);
      for (const host of ['peer', 'alpha'] as const) {
        expect(await datapaths[host].counters()).toMatchObject({ fragments: 0, errors: 0, unknown: 0 });
      }
      await move('beta');
      // A router cuts IPv4's fragments again; for IPv6 the sender has to.
      if (family === 'ipv6') expect(await client.say(FRAGMENTED_BYTES)).toBe(`${FRAGMENTED_BYTES} EMSGSIZE`);
      await client.echo(FRAGMENTED_BYTES);
    });

    test('a client hears that nobody listens any more', async () => {
      const server = await enter(family, 'udp', 52003);
      await move('beta');
      const client = await call(family, 'udp', 52003);
      await client.echo(1000);
      await server?.kill();
      await expect(client.say(1000)).resolves.toBe('1000 ECONNREFUSED');
    });

    test('so does a client in a cell', async () => {
      await enter(family, 'udp', 52004, { serve: false });
      await move('beta');
      const { peer, alpha } = ADDRESSES[family];
      const cell = { address: alpha, port: PORT };
      const client = await echoes.call(spaces.cell, 'udp', { address: peer, port: 52004 }, cell);
      await expect(client.say(1000)).resolves.toBe('1000 ECONNREFUSED');
    });

    test('what waits for a cell is not let go by the cell that answers for its address', async () => {
      await enter(family, 'tcp', 52005);
      const client = await call(family, 'tcp', 52005);
      const cell = await cellSide('alpha');
      const next = WAITING[family];
      const mac = await spaces.cell.mac('alpha');
      await datapaths.alpha.putSide({ ...cell, state: 'queued' });
      const echoed = client.echo(1000);
      await expect.poll(async () => (await datapaths.alpha.counters())?.queued, WAIT).toBeGreaterThan(0);
      // The cell has had the question; an answer would be here at once.
      await expect
        .poll(() => spaces.alpha.run('ip', 'neigh', 'show', next, 'dev', 'cell'), WAIT)
        .toContain('INCOMPLETE');
      expect(await spaces.cell.run('ip', 'neigh', 'show', 'dev', 'alpha')).toContain('PERMANENT');
      await datapaths.alpha.putSide(cell);
      await spaces.alpha.ip(`neigh replace ${next} lladdr ${mac} nud permanent dev cell`);
      await echoed;
      await spaces.alpha.ip(`neigh del ${next} dev cell`);
    });
  });

  test('a device without Ethernet headers is refused, with what to do; one that has them is not', async () => {
    const { alpha } = spaces;
    await alpha.ip('tuntap add dev tun7 mode tun', 'tuntap add dev tap7 mode tap');
    await expect(datapaths.alpha.attachDevice('tun7')).rejects.toMatchObject({
      code: 'DATAPATH',
      message: expect.stringMatching(
        /^device tun7 \(tun\) has no Ethernet headers.*give .* a route over an Eth/,
      ),
    });
    expect(await alpha.run('tc', 'qdisc', 'show', 'dev', 'tun7')).not.toContain('clsact');
    await datapaths.alpha.attachDevice('tap7');
    await alpha.ip('link del tun7', 'link del tap7');
  });

  /** The cell is at alpha; both hosts and the peer know of both places. */
  async function enter(
    family: Family,
    protocol: Protocol,
    port: number,
    { serve = true } = {},
  ): Promise<Told | undefined> {
    const { alpha, beta, peer } = ADDRESSES[family];
    const flow = { protocol, localSide: 0, remoteSide: 0, scope: 0, via: 0 } as const;
    const server = { address: alpha, port: PORT };
    const client = { address: peer, port };
    const labels = { alpha: { address: alpha, port: 40000 }, beta: { address: beta, port: 40001 } } as const;
    for (const host of HOSTS) {
      const side = await cellSide(host);
      const wireRemote = [await slot(spaces[host], client), undefined] as const;
      const ends = { local: server, remote: client, wireLocal: labels[host], wireRemote };
      await datapaths[host].putSide(side);
      await datapaths[host].putFlows([{ ...flow, ...ends, localSide: side.id, scope: side.ifindex }]);
    }
    const wireRemote = [await slot(spaces.peer, labels.alpha), await slot(spaces.peer, labels.beta)] as const;
    const ends = { local: client, remote: server, wireLocal: client, wireRemote };
    await datapaths.peer.putSide(peersView(0));
    await datapaths.peer.putFlows([{ ...flow, ...ends, remoteSide: PEERS_VIEW }]);
    await route('alpha');
    return serve ? await echoes.serve(spaces.cell, protocol, server) : undefined;
  }

  async function move(host: Host): Promise<void> {
    await datapaths.peer.putSide({ ...peersView(0), state: 'armed', accept: acceptOf(0, 1) });
    await route(host);
    await datapaths.peer.putSide({ ...peersView(host === 'alpha' ? 0 : 1), state: 'moved' });
  }

  /** Which host the cell sends by. */
  async function route(host: Host): Promise<void> {
    await sendBy(spaces.cell, host, addressesOf(SITE, 1, 2));
  }

  async function cellSide(host: Host): Promise<Side> {
    const ifindex = await spaces[host].ifindex('cell');
    return { id: CELL, state: 'home', active: 0, accept: acceptOf(0), ifindex };
  }

  async function call(family: Family, protocol: Protocol, port: number) {
    const { alpha, peer } = ADDRESSES[family];
    return await echoes.call(spaces.peer, protocol, { address: alpha, port: PORT }, { address: peer, port });
  }

  async function open(name: (typeof NAMES)[number]): Promise<Datapath> {
    return await openDatapath(pinDir(name), spaces[name]);
  }

  function pinDir(name: string): string {
    return join(directory, name);
  }
});

/** What a socket there takes the path to have room for. */
async function pathMtu(space: Namespace, address: string): Promise<number | undefined> {
  const [found] = JSON.parse(await space.run('ip', '-j', 'route', 'get', address));
  return found?.metrics?.[0]?.mtu;
}

function peersView(active: 0 | 1): Side {
  return { id: PEERS_VIEW, state: 'home', active, accept: acceptOf(active), ifindex: 0 };
}

async function slot(space: Namespace, endpoint: Endpoint): Promise<WireSlot> {
  return { endpoint, ifindex: await space.ifindex('eth0') };
}

async function topology(namespaces: Namespaces) {
  const create = () => namespaces.create();
  const [peer, router, narrow, alpha, beta, cell] = await Promise.all([
    create(),
    create(),
    create(),
    create(),
    create(),
    create(),
  ]);
  await Promise.all([router, narrow].map(forward));
  await connectHost(peer, router, 'net4', SITE, 4);
  await connectHost(alpha, router, 'net1', SITE, 1);
  await connectHost(narrow, router, 'net3', SITE, 3);
  await connectHost(beta, narrow, 'net2', SITE, 2);
  const { ipv4, ipv6 } = addressesOf(SITE, 3, 2);
  await router.ip(
    `link set net3 mtu ${NARROW_BYTES}`,
    `route add 10.${SITE}.2.0/24 via ${ipv4}`,
    `route add fd${SITE}:2::/64 via ${ipv6}`,
  );
  await narrow.ip(`link set eth0 mtu ${NARROW_BYTES}`);
  await linkCell(alpha, 'cell', cell, 'alpha');
  await linkCell(beta, 'cell', cell, 'beta');
  // On the device, as in a real cell: there it is asked for them.
  await giveAddresses(cell, 'alpha', addressesOf(SITE, 1, 2));
  return { peer, alpha, beta, cell };
}
