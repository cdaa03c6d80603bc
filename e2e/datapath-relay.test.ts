/**
 * Flows whose other end has moved away from the host that both were on, and flows that a host carries on for a peer
 * without an agent, in network namespaces. Nothing moves here: the server is in its cell from the beginning, and the
 * clients call it where it was.
 *
 *     legacy 10.89.5.2 --- router --- alpha 10.89.1.2 (and .3)
 *                            |
 *                            +------- beta 10.89.2.2 --- cell, has alpha's address
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { execa } from 'execa';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import type { Endpoint } from '../agent/address.ts';
import { mapPath } from '../agent/datapath/bpftool.ts';
import type { Datapath } from '../agent/datapath/datapath.ts';
import { LAYOUT } from '../agent/datapath/layout.ts';
import {
  acceptOf,
  type FlowEntry,
  LOOPBACK,
  RELAY,
  type RelayState,
  type Side,
  type WireSlot,
} from '../agent/datapath/model.ts';
import type { Rule } from '../agent/datapath/rules.ts';
import { clear, openDatapath, remove } from './datapaths.ts';
import { Echoes } from './echoes.ts';
import { Namespaces } from './namespaces.ts';
import { addressesOf, addTo, connectHost, forward, giveAddresses, linkCell, sendBy } from './networks.ts';
import { datapathUntestable } from './tools.ts';

const BULK_BYTES = 8 << 20;
/** Long enough for a packet that is let through to have arrived. */
const SILENCE_MS = 300;
const NAMES = ['alpha', 'beta'] as const;
const PORT = 7000;
const CELL = 1;
const REMOTE = 2;
/** What the programs may draw. */
const LABELS = { first: 52_000, count: 2 };
/** Off, strict, loose. */
const RP_FILTERS = [0, 1, 2] as const;
const LOOPBACK_SETTINGS = ['accept_local', 'route_localnet'] as const;

const SITE = 89;
const FAMILIES = [
  {
    family: 'IPv4',
    legacy: '10.89.5.2',
    alpha: '10.89.1.2',
    second: '10.89.1.3',
    beta: '10.89.2.2',
    loopback: '127.0.0.1',
  },
  {
    family: 'IPv6',
    legacy: 'fd89:5::2',
    alpha: 'fd89:1::2',
    second: 'fd89:1::3',
    beta: 'fd89:2::2',
    loopback: '::1',
  },
] as const;
const CASES = FAMILIES.flatMap((addresses) =>
  (['tcp', 'udp'] as const).map((protocol) => ({ ...addresses, protocol })),
);

const untestable = await datapathUntestable();

describe.skipIf(untestable !== undefined)(`the datapath beside its own host ${untestable ?? ''}`, () => {
  const namespaces = new Namespaces();
  let directory: string;
  let echoes: Echoes;
  let spaces: Awaited<ReturnType<typeof topology>>;
  let datapaths: Record<(typeof NAMES)[number], Datapath>;

  beforeAll(async () => {
    directory = await mkdtemp(join(tmpdir(), 'osmosis-relay-'));
    echoes = new Echoes(join(directory, 'cache'));
    spaces = await topology(namespaces);
    datapaths = { alpha: await open('alpha'), beta: await open('beta') };
    for (const device of ['lo', 'eth0']) await datapaths.alpha.attachDevice(device);
    await datapaths.beta.attachDevice('eth0');
    await datapaths.beta.attachCell('cell');
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

  describe.each(CASES)(
    '$protocol over $family',
    ({ family, protocol, legacy, alpha, second, beta, loopback }) => {
      const label = { address: beta, port: 40001 };
      // IPv6 has no such filter.
      const filters = family === 'IPv4' && protocol === 'tcp' ? RP_FILTERS : [1];
      const bulk = protocol === 'tcp' ? BULK_BYTES : 1000;

      test.each(filters)(
        'a client whose server has left the host that both were on, rp_filter %i',
        async (mode) => {
          await filterReverse(mode);
          const ends = {
            local: { address: second, port: 51100 + mode },
            remote: { address: alpha, port: PORT },
          };
          await enterCell(protocol, ends.remote, [[ends.local, ends.local]]);
          await enterHost({ ...host(protocol), ...ends, wireLocal: ends.local, via: LOOPBACK });
          const client = await echoes.call(spaces.alpha, protocol, ends.remote, ends.local);
          await client.echo(bulk);
          const counters = await datapaths.alpha.counters();
          expect(counters).toMatchObject({ errors: 0, stale: 0 });
          expect(counters?.translated_in).toBeGreaterThan(0);
        },
      );

      test.each(filters)('the same over loopback addresses, rp_filter %i', async (mode) => {
        await filterReverse(mode);
        // A port of its own: that of a connection which has just ended can't be had at once.
        await enterOnOneHost({ address: loopback, port: 51110 + mode }, { address: loopback, port: PORT });
      });

      test('a client and a server that had the same address', async () => {
        await enterOnOneHost({ address: alpha, port: 51005 }, { address: alpha, port: PORT });
      });

      test.runIf(protocol === 'tcp')(
        'segments that only a loopback device carries are made shorter',
        async () => {
          const [local, remote] = [
            { address: loopback, port: 51008 },
            { address: loopback, port: PORT },
          ];
          // As after a move: the connection was made over `lo`, so each end thinks that the other takes such segments.
          await enterCell(protocol, remote, [[local, { address: alpha, port: 40100 }]], LOOPBACK);
          await spaces.cell.ip('link set lo mtu 65536');
          await enterHost({
            ...host(protocol),
            local,
            remote,
            wireLocal: { address: alpha, port: 40100 },
            via: LOOPBACK,
          });
          const client = await echoes.call(spaces.alpha, protocol, remote, local);
          await spaces.cell.ip('link set lo mtu 1500');
          await client.echo(bulk);
        },
      );

      test('packets for a cell that is being restored wait, also those with addresses of its own', async () => {
        const [local, remote] = [
          { address: loopback, port: 51009 },
          { address: loopback, port: PORT },
        ];
        await spaces.cell.run('sysctl', '-qw', 'net.ipv4.conf.all.arp_ignore=8');
        await enterCell(protocol, remote, [[local, { address: alpha, port: 40100 }]], LOOPBACK);
        const wireLocal = { address: alpha, port: 40100 };
        await enterHost({ ...host(protocol), local, remote, wireLocal, via: LOOPBACK });
        const side = { ...SIDE, id: CELL, ifindex: await spaces.beta.ifindex('cell') };
        const client = await echoes.call(spaces.alpha, protocol, remote, local);
        await datapaths.beta.putSide({ ...side, state: 'queued' });
        const echoed = client.echo(1000);
        await expect(Promise.race([echoed, sleep(SILENCE_MS, 'silent')])).resolves.toBe('silent');
        expect((await datapaths.beta.counters())?.queued).toBeGreaterThan(0);
        await datapaths.beta.putSide(side);
        const mac = await spaces.cell.mac('eth0');
        const next = family === 'IPv4' ? '169.254.1.2' : 'fe80::2';
        await spaces.beta.ip(`neigh replace ${next} lladdr ${mac} nud permanent dev cell`);
        await echoed;
        await spaces.beta.ip(`neigh del ${next} dev cell`);
      });

      test('what goes round inside the cell goes on doing so', async () => {
        await enterOnOneHost({ address: loopback, port: 51006 }, { address: loopback, port: PORT });
        const [server, client] = [
          { address: loopback, port: PORT },
          { address: loopback, port: 51007 },
        ];
        await (await echoes.call(spaces.cell, protocol, server, client)).echo(bulk);
      });

      test('legacy peers are relayed to the cell, and a new server here serves others', async () => {
        const server = { address: alpha, port: PORT };
        const clients = [51002, 51003].map((port) => ({ address: legacy, port }));
        const labels = [40101, 40102].map((port) => ({ address: alpha, port }));
        await enterCell(
          protocol,
          server,
          clients.map((client, index) => [client, labels[index] ?? client]),
        );
        const via = await spaces.alpha.ifindex('eth0');
        for (const [index, local] of clients.entries()) {
          const relayed = { ...host(protocol), local, remote: server, scope: RELAY, via };
          await enterHost({ ...relayed, wireLocal: labels[index] ?? local });
        }
        const [first, other] = [clients[0] ?? server, clients[1] ?? server];
        const moved = await echoes.call(spaces.legacy, protocol, server, first);
        await moved.echo(1000);
        await echoes.serve(spaces.alpha, protocol, server);
        const fresh = await echoes.call(spaces.legacy, protocol, server, { address: legacy, port: 51004 });
        const another = await echoes.call(spaces.legacy, protocol, server, other);
        const before = (await datapaths.alpha.counters())?.relayed;
        await fresh.echo(1000);
        expect((await datapaths.alpha.counters())?.relayed).toBe(before);
        const began = process.hrtime.bigint();
        await Promise.all([moved.echo(bulk), another.echo(bulk), fresh.echo(bulk)]);
        expect(await datapaths.alpha.counters()).toMatchObject({ errors: 0, unknown: 0 });
        expect(await relays()).toMatchObject([{ isClosed: false }, { isClosed: false }]);
        for (const { seenNs } of await relays()) expect(seenNs).toBeGreaterThan(began);
        const isTcp = protocol === 'tcp';
        await moved.close();
        const ended = [
          { isClosed: isTcp, isReset: false },
          { isClosed: false, isReset: isTcp },
        ];
        await spaces.legacy.run('ss', '--kill', '--tcp', 'sport', '=', `:${other.port}`);
        await expect.poll(relays).toMatchObject(ended);
      });

      test('rules take on new flows of legacy peers, which are then as if the agent had entered them', async () => {
        const server = { address: alpha, port: PORT };
        await acceptAll(server);
        const follow = await followAll(server);
        const moved = await echoes.call(spaces.legacy, protocol, server, { address: legacy, port: 51012 });
        await moved.echo(bulk);
        const other = await echoes.call(spaces.legacy, protocol, server, { address: legacy, port: 51013 });
        await Promise.all([moved.echo(1000), other.echo(1000)]);
        const created = (await datapaths.alpha.refresh()).toSorted((a, b) => a.local.port - b.local.port);
        const via = await spaces.alpha.ifindex('eth0');
        expect((await relays()).map(({ id }) => id.local)).toEqual(created.map(({ local }) => local));
        expect(created.map((flow) => [flow.scope, flow.via, flow.wireLocal])).toEqual(
          [LABELS.first, LABELS.first + 1].map((port) => [RELAY, via, { address: alpha, port }]),
        );
        const before = await waysIn();
        await datapaths.alpha.putFlows(created.map(({ rule, ...flow }) => flow));
        expect(await waysIn()).toEqual(before);
        await moved.echo(1000);
        expect(await datapaths.alpha.counters()).toMatchObject({
          errors: 0,
          unknown: 0,
          created: 2,
        });
        await datapaths.alpha.removeRules([follow]);
        await datapaths.alpha.removeFlows(created);
        expect(await datapaths.alpha.removeCreated(() => true)).toHaveLength(2);
      });

      test('rules take on new flows of sockets on the host that the server has left', async () => {
        const server = { address: alpha, port: PORT };
        await acceptAll(server);
        const follow = await followAll(server);
        const client = { address: second, port: 51016 };
        await (await echoes.call(spaces.alpha, protocol, server, client)).echo(bulk);
        const twin = { address: alpha, port: 51017 };
        await (await echoes.call(spaces.alpha, protocol, server, twin)).echo(bulk);
        const created = (await datapaths.alpha.refresh()).toSorted((a, b) => a.local.port - b.local.port);
        expect(created.map(({ scope, via, wireLocal }) => [scope, via, wireLocal])).toEqual([
          [0, LOOPBACK, client],
          [0, LOOPBACK, twin],
        ]);
        await datapaths.alpha.removeRules([follow]);
      });

      test('rules leave alone what they do not name', async () => {
        const server = { address: alpha, port: PORT };
        await acceptAll(server);
        const follow = await followAll({ ...server, port: PORT + 1 });
        // Nobody has a rule for this one.
        await echoes.serve(spaces.alpha, protocol, server);
        await (await echoes.call(spaces.legacy, protocol, server, { address: legacy, port: 51015 })).echo(
          1000,
        );
        expect(await datapaths.alpha.refresh()).toEqual([]);
        await datapaths.alpha.removeRules([follow]);
      });

      test('a legacy peer is relayed to a cell on the very host', async () => {
        const [inside, client] = [
          { address: alpha, port: PORT },
          { address: legacy, port: 51011 },
        ];
        const [server, own] = [
          { address: beta, port: PORT },
          { address: beta, port: 40103 },
        ];
        await enterCell(protocol, inside, [[client, own]]);
        const { flows } = await datapaths.beta.entries();
        const wireRemote: FlowEntry['wireRemote'] = [{ endpoint: own, ifindex: LOOPBACK }, undefined];
        await datapaths.beta.putFlows(flows.map((flow) => ({ ...flow, wireRemote })));
        const via = await spaces.beta.ifindex('eth0');
        const relayed = {
          ...host(protocol),
          remoteSide: 0,
          local: client,
          remote: server,
          scope: RELAY,
          via,
        };
        const toCell: FlowEntry['wireRemote'] = [{ endpoint: label, ifindex: LOOPBACK }, undefined];
        await datapaths.beta.putFlows([{ ...relayed, wireLocal: own, wireRemote: toCell }]);
        await datapaths.beta.attachDevice('lo');
        await (await echoes.call(spaces.legacy, protocol, server, client)).echo(bulk);
      });

      async function relays(): Promise<RelayState[]> {
        const states = await datapaths.alpha.relays();
        return states.toSorted((a, b) => a.id.local.port - b.id.local.port);
      }

      /** New flows to the label get into the cell. */
      async function acceptAll(server: Endpoint): Promise<void> {
        await enterCell(protocol, server, [], LOOPBACK);
        const scope = await spaces.beta.ifindex('cell');
        const cell = { local: server, localSide: CELL, scope };
        await datapaths.beta.putRules([{ kind: 'accept', protocol, wire: label, ...cell, flowsMax: 10 }]);
      }

      async function followAll(remote: Endpoint): Promise<Rule> {
        const to = { endpoint: label, ifindex: await spaces.alpha.ifindex('eth0') };
        const rule: Rule = {
          kind: 'follow',
          protocol,
          remote,
          to,
          remoteSide: REMOTE,
          labels: LABELS,
          flowsMax: 10,
        };
        await datapaths.alpha.putSide({ ...SIDE, id: REMOTE });
        await datapaths.alpha.putRules([rule]);
        return rule;
      }

      async function waysIn(): Promise<unknown> {
        const argv = ['-j', 'map', 'dump', 'pinned', mapPath(pinDir('alpha'), 'ingress')];
        const elements: { key: string[]; value: string[] }[] = JSON.parse(
          (await execa('bpftool', argv)).stdout,
        );
        // All but when it was last used.
        const place = (value: readonly string[]) => value.slice(0, LAYOUT.ingress_value.used).join('');
        return elements.map(({ key, value }) => `${key.join('')} ${place(value)}`).sort();
      }

      /** Both ends have an address of the other's host; the client's is another one on the wire. */
      async function enterOnOneHost(local: Endpoint, remote: Endpoint): Promise<void> {
        const wireLocal = { address: alpha, port: 40100 };
        await enterCell(protocol, remote, [[local, wireLocal]], LOOPBACK);
        await enterHost({ ...host(protocol), local, remote, wireLocal, via: LOOPBACK });
        await (await echoes.call(spaces.alpha, protocol, remote, local)).echo(bulk);
        expect(await datapaths.beta.counters()).toMatchObject({ errors: 0, unknown: 0 });
      }

      async function filterReverse(mode: number): Promise<void> {
        const settings = ['all', 'lo', 'eth0'].map((device) => `net.ipv4.conf.${device}.rp_filter=${mode}`);
        await spaces.alpha.run('sysctl', '-qw', ...settings);
      }

      function host(of: typeof protocol) {
        const wireRemote: [WireSlot, undefined] = [{ endpoint: label, ifindex: 0 }, undefined];
        return { protocol: of, localSide: 0, remoteSide: REMOTE, scope: 0, wireRemote } as const;
      }

      /** The server's end, for clients that are seen at the second of two endpoints on the wire. */
      async function enterCell(
        of: typeof protocol,
        server: Endpoint,
        clients: readonly (readonly [virtual: Endpoint, wire: Endpoint])[],
        via = 0,
      ): Promise<void> {
        const side = { ...SIDE, id: CELL, ifindex: await spaces.beta.ifindex('cell') };
        const ifindex = await spaces.beta.ifindex('eth0');
        const cell = { protocol: of, local: server, wireLocal: label, localSide: CELL, remoteSide: 0 };
        await datapaths.beta.putSide(side);
        await datapaths.beta.putFlows(
          clients.map(([remote, endpoint]) => ({
            ...cell,
            remote,
            wireRemote: [{ endpoint, ifindex }, undefined],
            scope: side.ifindex,
            via,
          })),
        );
        if (via !== 0) await datapaths.beta.attachInside(spaces.cell.path, side.ifindex);
        await echoes.serve(spaces.cell, of, server);
      }

      async function enterHost(flow: FlowEntry): Promise<void> {
        const ifindex = await spaces.alpha.ifindex('eth0');
        await datapaths.alpha.putSide({ ...SIDE, id: REMOTE });
        await datapaths.alpha.putFlows([{ ...flow, wireRemote: [{ endpoint: label, ifindex }, undefined] }]);
      }
    },
  );

  describe('the settings of the loopback device', () => {
    const flow: FlowEntry = {
      protocol: 'udp',
      local: { address: '10.89.1.3', port: 51010 },
      remote: { address: '10.89.1.2', port: PORT },
      wireLocal: { address: '10.89.1.3', port: 51010 },
      wireRemote: [{ endpoint: { address: '10.89.2.2', port: 40001 }, ifindex: 2 }, undefined],
      localSide: 0,
      remoteSide: 0,
      scope: 0,
      via: LOOPBACK,
    };

    test('are made with the first flow that needs them, and put back with the last, by another agent as well', async () => {
      await set('route_localnet=1');
      await datapaths.alpha.putFlows([{ ...flow, via: 0 }]);
      expect(await settings()).toEqual(['0', '1']);
      await datapaths.alpha.putFlows([flow, { ...flow, protocol: 'tcp' }]);
      expect(await settings()).toEqual(['1', '1']);
      await datapaths.alpha.close();
      datapaths.alpha = await open('alpha');
      await datapaths.alpha.removeFlows([flow]);
      expect(await settings()).toEqual(['1', '1']);
      await datapaths.alpha.removeFlows([{ ...flow, protocol: 'tcp' }]);
      expect(await settings()).toEqual(['0', '1']);
      await set('route_localnet=0');
    });

    async function set(setting: string): Promise<void> {
      await spaces.alpha.run('sysctl', '-qw', `net.ipv4.conf.lo.${setting}`);
    }

    async function settings(): Promise<string[]> {
      return await Promise.all(
        LOOPBACK_SETTINGS.map((name) => spaces.alpha.run('sysctl', '-n', `net.ipv4.conf.lo.${name}`)),
      );
    }
  });

  async function open(name: (typeof NAMES)[number]): Promise<Datapath> {
    return await openDatapath(pinDir(name), spaces[name]);
  }

  function pinDir(name: string): string {
    return join(directory, name);
  }
});

const SIDE = { state: 'home', active: 0, accept: acceptOf(0), ifindex: 0 } as const satisfies Omit<
  Side,
  'id'
>;

async function topology(namespaces: Namespaces) {
  const [legacy, router, alpha, beta, cell] = await Promise.all([
    namespaces.create(),
    namespaces.create(),
    namespaces.create(),
    namespaces.create(),
    namespaces.create(),
  ]);
  await forward(router);
  await connectHost(legacy, router, 'net5', SITE, 5);
  await connectHost(alpha, router, 'net1', SITE, 1);
  await connectHost(beta, router, 'net2', SITE, 2);
  await addTo(alpha, 'eth0', SITE, 1, 3);
  await linkCell(beta, 'cell', cell);
  await giveAddresses(cell, 'eth0', addressesOf(SITE, 1, 2));
  await sendBy(cell, 'eth0', addressesOf(SITE, 1, 2));
  return { legacy, router, alpha, beta, cell };
}
