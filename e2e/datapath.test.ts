/**
 * A live connection whose other end moves from host to host, in network namespaces. No process moves here: the cell has
 * a veth to both hosts, and which one it uses stands for where it is.
 *
 *     peer 10.88.4.2 --- router --- alpha 10.88.1.2 ---+
 *                          |                          cell, has alpha's addresses
 *                          +------- beta 10.88.2.2 ----+
 */
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { execa } from 'execa';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import type { Endpoint, Protocol } from '../agent/address.ts';
import type { Datapath } from '../agent/datapath/datapath.ts';
import { acceptOf, type FlowEntry, type Side, type WireSlot } from '../agent/datapath/model.ts';
import { clear, openDatapath, remove } from './datapaths.ts';
import { Echoes } from './echoes.ts';
import { type Namespace, Namespaces } from './namespaces.ts';
import { addressesOf, connectHost, forward, giveAddresses, linkCell, sendBy } from './networks.ts';
import { datapathUntestable } from './tools.ts';

/** Enough for segmentation offload, window scaling and a lot of acknowledgements. */
const BULK_BYTES = 16 << 20;
/** Long enough for a packet that is let through to have arrived, and for a first retransmission. */
const SILENCE_MS = 500;
const PORT = 7000;
const CELL = 1;
const PEERS_VIEW = 2;

const SITE = 88;
const ADDRESSES = {
  ipv4: { peer: '10.88.4.2', alpha: '10.88.1.2', beta: '10.88.2.2' },
  ipv6: { peer: 'fd88:4::2', alpha: 'fd88:1::2', beta: 'fd88:2::2' },
} as const;
type Family = keyof typeof ADDRESSES;

const HOSTS = ['alpha', 'beta'] as const;
type Host = (typeof HOSTS)[number];
const NAMES = ['peer', ...HOSTS] as const;

const untestable = await datapathUntestable();

describe.skipIf(untestable !== undefined)(`the datapath between hosts ${untestable ?? ''}`, () => {
  const namespaces = new Namespaces();
  let directory: string;
  let echoes: Echoes;
  let spaces: Record<'peer' | 'router' | 'cell' | Host, Namespace>;
  let datapaths: Record<'peer' | Host, Datapath>;

  beforeAll(async () => {
    directory = await mkdtemp(join(tmpdir(), 'osmosis-datapath-'));
    echoes = new Echoes(join(directory, 'cache'));
    spaces = await topology(namespaces);
    datapaths = { peer: await open('peer'), alpha: await open('alpha'), beta: await open('beta') };
    await datapaths.peer.attachDevice('eth0');
    for (const host of HOSTS) await attach(host);
  });

  afterEach(async () => {
    await echoes.end();
    for (const name of NAMES) await clear(datapaths[name], pinDir(name));
  });

  afterAll(async () => {
    for (const [name, datapath] of Object.entries(datapaths ?? {})) await remove(datapath, pinDir(name));
    await namespaces.close();
    if (directory !== undefined) await rm(directory, { recursive: true });
  });

  describe.each(['ipv4', 'ipv6'] as const)('%s', (family) => {
    test('a TCP connection outlives moves from label to label and host to host', async () => {
      const slots = await enterAlpha(family, 'tcp', 51000);
      const client = await call(family, 'tcp', 51000);
      await client.echo(BULK_BYTES);

      await move(family, 'tcp', 51000, [slots.alpha, slots.beta], 1);
      await client.echo(BULK_BYTES);
      const counters = await datapaths.beta.counters();
      expect(counters).toMatchObject({ unknown: 0, errors: 0 });
      expect(counters?.translated_in).toBeGreaterThan(0);
      expect(counters?.translated_out).toBeGreaterThan(0);

      await move(family, 'tcp', 51000, [slots.alpha, slots.beta], 0);
      await client.echo(1000);
    });

    test('UDP', async () => {
      const slots = await enterAlpha(family, 'udp', 51001);
      const client = await call(family, 'udp', 51001);
      await client.echo(1000);
      await move(family, 'udp', 51001, [slots.alpha, slots.beta], 1);
      await client.echo(1000);
    });

    test('the old port at the old host is free for a new server, at the same time', async () => {
      const slots = await enterAlpha(family, 'tcp', 51002);
      const moved = await call(family, 'tcp', 51002);
      await move(family, 'tcp', 51002, [slots.alpha, slots.beta], 1);
      await echoes.serve(spaces.alpha, 'tcp', { address: ADDRESSES[family].alpha, port: PORT });
      const fresh = await call(family, 'tcp', 51003);
      await Promise.all([moved.echo(BULK_BYTES), fresh.echo(BULK_BYTES)]);
    });
  });

  test('a fenced cell is silent, not gone', async () => {
    await enterAlpha('ipv4', 'tcp', 51004);
    const client = await call('ipv4', 'tcp', 51004);
    const cell = await cellSide('alpha');
    await datapaths.alpha.putSide({ ...cell, state: 'fenced' });
    const echoed = client.echo(1000);
    await expect(Promise.race([echoed, sleep(SILENCE_MS, 'silent')])).resolves.toBe('silent');
    await datapaths.alpha.putSide(cell);
    await echoed;
  });

  test('a reset of the old host does not reach a connection that has moved', async () => {
    const slots = await enterAlpha('ipv4', 'tcp', 51005);
    const client = await call('ipv4', 'tcp', 51005);
    await move('ipv4', 'tcp', 51005, [slots.alpha, slots.beta], 1);
    // What the cell still says by way of alpha has the old label on it: the peer takes it for what it is.
    await route('alpha');
    const echoed = client.echo(1000);
    await expect(Promise.race([echoed, sleep(SILENCE_MS, 'silent')])).resolves.toBe('silent');
    expect((await datapaths.peer.counters())?.stale).toBeGreaterThan(0);
    await route('beta');
    await echoed;
  });

  test('the SYN for a fenced listener waits until the fence is gone', async () => {
    await echoes.serve(spaces.alpha, 'tcp', { address: ADDRESSES.ipv4.alpha, port: PORT });
    await datapaths.alpha.fenceListeners([{ address: '0.0.0.0', port: PORT }]);
    const connecting = call('ipv4', 'tcp', 51006);
    await expect(Promise.race([connecting, sleep(SILENCE_MS, 'silent')])).resolves.toBe('silent');
    await datapaths.alpha.unfenceListeners([{ address: '0.0.0.0', port: PORT }]);
    await (await connecting).echo(1000);
  });

  test('what was translated is not looked up again, even if there is an entry for what it has become', async () => {
    await enterAlpha('ipv4', 'tcp', 51007);
    const local = { address: ADDRESSES.ipv4.peer, port: 51007 };
    const trap = await slot(spaces.peer, { address: ADDRESSES.ipv4.beta, port: 9 });
    const remote = { address: ADDRESSES.ipv4.alpha, port: 40000 };
    await datapaths.peer.putFlows([
      { ...peerFlow('ipv4', 'tcp', 51007, [trap, undefined]), local, remote, remoteSide: 0 },
    ]);
    await (await call('ipv4', 'tcp', 51007)).echo(1000);
  });

  test('a client on the very host that the server has come to', async () => {
    const [server, client] = [
      { address: ADDRESSES.ipv4.alpha, port: PORT },
      { address: ADDRESSES.ipv4.beta, port: 51008 },
    ];
    const label = { address: ADDRESSES.ipv4.beta, port: 40001 };
    const loopback = await spaces.beta.ifindex('lo');
    const side = await cellSide('beta');
    const flow = { protocol: 'tcp', localSide: 0, remoteSide: 0, scope: 0, via: 0 } as const;
    await datapaths.beta.putSide(side);
    await datapaths.beta.putFlows([
      {
        ...flow,
        local: client,
        remote: server,
        wireLocal: client,
        wireRemote: [{ endpoint: label, ifindex: loopback }, undefined],
      },
      {
        ...flow,
        local: server,
        remote: client,
        wireLocal: label,
        wireRemote: [{ endpoint: client, ifindex: loopback }, undefined],
        localSide: side.id,
        scope: side.ifindex,
        via: 0,
      },
    ]);
    await datapaths.beta.attachDevice('lo');
    await route('beta');
    await echoes.serve(spaces.cell, 'tcp', server);
    await (await echoes.call(spaces.beta, 'tcp', server, client)).echo(BULK_BYTES);
  });

  test('nothing is left behind, and what is of others stays', async () => {
    await remove(datapaths.alpha, pinDir('alpha'));
    await spaces.alpha.run('tc', 'qdisc', 'add', 'dev', 'cell', 'clsact');
    await attach('alpha');
    await enterAlpha('ipv4', 'tcp', 51009);
    expect(await datapaths.alpha.removeIfEmpty()).toBe(false);
    await remove(datapaths.alpha, pinDir('alpha'));
    expect(await readdir(directory)).not.toContain('alpha');
    expect(await spaces.alpha.run('tc', 'qdisc', 'show', 'dev', 'eth0')).not.toContain('clsact');
    expect(await spaces.alpha.run('tc', 'qdisc', 'show', 'dev', 'cell')).toContain('clsact');
    expect(await spaces.alpha.run('tc', 'filter', 'show', 'dev', 'cell', 'ingress')).toBe('');
    expect((await execa('findmnt', ['--list'])).stdout).not.toContain(`${directory}/alpha`);
    await spaces.alpha.run('tc', 'qdisc', 'del', 'dev', 'cell', 'clsact');
    await attach('alpha');
  });

  test('flows go on while no agent runs, and the next one takes over', async () => {
    const slots = await enterAlpha('ipv4', 'tcp', 51010);
    const client = await call('ipv4', 'tcp', 51010);
    await datapaths.alpha.close();
    await client.echo(1000);
    datapaths.alpha = await open('alpha');
    const { flows, devices } = await datapaths.alpha.entries();
    expect(flows).toHaveLength(1);
    expect(devices.map(({ name, programs }) => [name, programs]).toSorted()).toEqual([
      ['cell', ['from_cell']],
      ['eth0', ['from_wire', 'to_wire']],
    ]);
    await move('ipv4', 'tcp', 51010, [slots.alpha, slots.beta], 1);
    await client.echo(1000);
  });

  /** The cell, with an echo server in it, is at alpha; both hosts and the peer know of both places. */
  async function enterAlpha(
    family: Family,
    protocol: Protocol,
    port: number,
  ): Promise<Record<Host, WireSlot>> {
    const { alpha, beta, peer } = ADDRESSES[family];
    const slots = {
      alpha: await slot(spaces.peer, { address: alpha, port: 40000 }),
      beta: await slot(spaces.peer, { address: beta, port: 40001 }),
    };
    for (const host of HOSTS) {
      const side = await cellSide(host);
      await datapaths[host].putSide(side);
      await datapaths[host].putFlows([
        {
          protocol,
          local: { address: alpha, port: PORT },
          remote: { address: peer, port },
          wireLocal: slots[host].endpoint,
          wireRemote: [await slot(spaces[host], { address: peer, port }), undefined],
          localSide: side.id,
          remoteSide: 0,
          scope: side.ifindex,
          via: 0,
        },
      ]);
    }
    await datapaths.peer.putSide(peersView(0));
    await datapaths.peer.putFlows([peerFlow(family, protocol, port, [slots.alpha, slots.beta])]);
    await route('alpha');
    await echoes.serve(spaces.cell, protocol, { address: alpha, port: PORT });
    return slots;
  }

  async function move(
    family: Family,
    protocol: Protocol,
    port: number,
    slots: readonly [WireSlot, WireSlot],
    active: 0 | 1,
  ): Promise<void> {
    await datapaths.peer.putSide({ ...peersView(0), state: 'armed', accept: acceptOf(0, 1) });
    await datapaths.peer.putFlows([peerFlow(family, protocol, port, slots)]);
    await route(active === 0 ? 'alpha' : 'beta');
    await datapaths.peer.putSide({ ...peersView(active), state: 'moved' });
  }

  /** Which host the cell sends by. */
  async function route(host: Host): Promise<void> {
    await sendBy(spaces.cell, host, addressesOf(SITE, 1, 2));
  }

  async function open(name: (typeof NAMES)[number]): Promise<Datapath> {
    return await openDatapath(pinDir(name), spaces[name]);
  }

  function pinDir(name: string): string {
    return join(directory, name);
  }

  async function attach(host: Host): Promise<void> {
    await datapaths[host].attachDevice('eth0');
    await datapaths[host].attachCell('cell');
  }

  async function cellSide(host: Host): Promise<Side> {
    const ifindex = await spaces[host].ifindex('cell');
    return { id: CELL, state: 'home', active: 0, accept: acceptOf(0), ifindex };
  }

  async function call(family: Family, protocol: Protocol, port: number) {
    const { alpha, peer } = ADDRESSES[family];
    return await echoes.call(spaces.peer, protocol, { address: alpha, port: PORT }, { address: peer, port });
  }
});

function peerFlow(
  family: Family,
  protocol: Protocol,
  port: number,
  wireRemote: readonly [WireSlot, WireSlot | undefined],
): FlowEntry {
  const local = { address: ADDRESSES[family].peer, port };
  const remote = { address: ADDRESSES[family].alpha, port: PORT };
  return {
    protocol,
    local,
    remote,
    wireLocal: local,
    wireRemote,
    localSide: 0,
    remoteSide: PEERS_VIEW,
    scope: 0,
    via: 0,
  };
}

function peersView(active: 0 | 1): Side {
  return { id: PEERS_VIEW, state: 'home', active, accept: acceptOf(active), ifindex: 0 };
}

async function slot(space: Namespace, endpoint: Endpoint): Promise<WireSlot> {
  return { endpoint, ifindex: await space.ifindex('eth0') };
}

async function topology(namespaces: Namespaces) {
  const [peer, router, alpha, beta, cell] = await Promise.all([
    namespaces.create(),
    namespaces.create(),
    namespaces.create(),
    namespaces.create(),
    namespaces.create(),
  ]);
  await forward(router);
  await connectHost(peer, router, 'net4', SITE, 4);
  await connectHost(alpha, router, 'net1', SITE, 1);
  await connectHost(beta, router, 'net2', SITE, 2);
  await giveAddresses(cell, 'lo', addressesOf(SITE, 1, 2));
  await linkCell(alpha, 'cell', cell, 'alpha');
  await linkCell(beta, 'cell', cell, 'beta');
  return { peer, router, alpha, beta, cell };
}
