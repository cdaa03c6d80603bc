/** Rules, packet by packet through BPF_PROG_TEST_RUN: which flows the programs create, and which they do not. */
import { mkdtemp, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { Endpoint, Protocol } from '../agent/address.ts';
import type { Element } from '../agent/datapath/bpftool.ts';
import { belongsTo } from '../agent/datapath/created.ts';
import { Datapath } from '../agent/datapath/datapath.ts';
import {
  encodeEgressKey,
  encodeEgressValue,
  encodeIngress,
  encodeTuple,
  LAYOUT,
} from '../agent/datapath/layout.ts';
import { acceptOf, type FlowEntry, type Side } from '../agent/datapath/model.ts';
import { objectFile } from '../agent/datapath/object.ts';
import { dumpMap } from '../agent/datapath/pins.ts';
import type { Accept, Follow, WayOut } from '../agent/datapath/rules.ts';
import { runnerIn } from '../agent/datapath/run.ts';
import { clear, remove } from './datapaths.ts';
import { ACK, frame, SYN } from './packets.ts';
import { expectations, LOOPBACK, PASS, REDIRECT } from './programs.ts';
import { datapathUntestable } from './tools.ts';

const REMOTE_SIDE = 1;
const CELL_SIDE = 2;
const FLOWS_MAX = 8;
const FIRST_LABEL = 46_000;

type Case = Record<'family' | 'peer' | 'old' | 'own' | 'all' | 'far', string> & {
  readonly protocol: Protocol;
};

/** The other two pairs go over real sockets in datapath-new-flows.test.ts. */
const CASES: readonly Case[] = [
  {
    family: 'IPv4',
    protocol: 'tcp',
    peer: '10.77.4.2',
    old: '10.77.1.2',
    own: '10.77.2.2',
    all: '0.0.0.0',
    far: '10.9.9.9',
  },
  {
    family: 'IPv6',
    protocol: 'udp',
    peer: 'fd00:4::2',
    old: 'fd00:1::2',
    own: 'fd00:2::2',
    all: '::',
    far: 'fd09::9',
  },
];

const untestable = await datapathUntestable();

let directory: string;
let datapath: Datapath;
const { expectRun, expectDrop, expectVerdict } = expectations(() => ({ datapath, pinDir: pinDir() }));

describe.skipIf(untestable !== undefined)(`rules ${untestable ?? ''}`, () => {
  beforeAll(async () => {
    directory = await mkdtemp(join(tmpdir(), 'osmosis-rules-'));
    datapath = await Datapath.open({ pinDir: pinDir(), objectFile: await objectFile() });
  });

  beforeEach(async () => {
    await datapath.putSide(remoteSide({}));
    await datapath.putSide(cellSide({}));
  });

  afterEach(async () => {
    await clear(datapath, pinDir());
    for (const map of ['ingress', 'egress', 'labels', 'drawn'] as const) {
      expect(await dumpMap(runnerIn(undefined), pinDir(), map)).toEqual([]);
    }
  });

  afterAll(async () => {
    await remove(datapath, pinDir());
    await rm(directory, { recursive: true });
  });

  describe.each(CASES)('$protocol over $family', ({ protocol, peer, old, own, all, far }) => {
    const server = { address: old, port: 7000 };
    const published = { address: own, port: 8080 };
    const label = { address: own, port: 40_001 };
    const client = { address: peer, port: 51_000 };
    const accept: Accept = {
      kind: 'accept',
      protocol,
      wire: published,
      local: server,
      localSide: CELL_SIDE,
      scope: LOOPBACK,
      flowsMax: FLOWS_MAX,
    };
    const follow: Follow = {
      kind: 'follow',
      protocol,
      remote: server,
      to: { endpoint: label, ifindex: LOOPBACK },
      remoteSide: REMOTE_SIDE,
      flowsMax: FLOWS_MAX,
    };
    const wayOut: WayOut = {
      kind: 'way_out',
      scope: LOOPBACK,
      prefix: all,
      bits: 0,
      address: own,
      ifindex: LOOPBACK,
      localSide: CELL_SIDE,
      labels: { first: FIRST_LABEL, count: 4 },
      flowsMax: FLOWS_MAX,
    };
    const opening = (from: Endpoint, to: Endpoint) => packet(protocol, from, to, SYN);
    const later = (from: Endpoint, to: Endpoint) => packet(protocol, from, to, ACK);

    test('accept: a new flow from anyone gets into the cell, and its answers out', async () => {
      await datapath.putRules([accept]);
      if (protocol === 'tcp') await expectRun('from_wire', later(client, published), PASS);
      await expectRun('from_wire', opening(client, published), PASS, opening(client, server));
      await expectRun('from_wire', opening(client, published), PASS, opening(client, server));
      await expectRun('from_wire', later(client, published), PASS, later(client, server));
      await expectRun('from_cell', later(server, client), REDIRECT, later(published, client));
      await expectCreated(
        {
          protocol,
          local: server,
          remote: client,
          wireLocal: published,
          wireRemote: [{ endpoint: client, ifindex: LOOPBACK }, undefined],
          localSide: CELL_SIDE,
          remoteSide: 0,
          scope: LOOPBACK,
          via: 0,
        },
        0,
      );
      const elsewhere = opening(client, { ...published, port: 8081 });
      await expectRun('from_wire', elsewhere, PASS, elsewhere);
    });

    test('follow: a new flow of this host goes where the cell is now, in the slot that is active', async () => {
      await datapath.putRules([follow]);
      if (protocol === 'tcp') await expectRun('to_wire', later(client, server), PASS, later(client, server));
      await expectRun('to_wire', opening(client, server), REDIRECT, opening(client, label));
      await expectRun('from_wire', later(label, client), PASS, later(server, client));
      await expectCreated(
        {
          protocol,
          local: client,
          remote: server,
          wireLocal: client,
          wireRemote: [undefined, { endpoint: label, ifindex: LOOPBACK }],
          localSide: 0,
          remoteSide: REMOTE_SIDE,
          scope: 0,
          // `bpftool prog run` sends by `lo`, as for an address of this host's own.
          via: LOOPBACK,
        },
        1,
      );
    });

    test('way out: a new flow of the cell gets a label, the same one for all flows of its endpoint', async () => {
      await datapath.putRules([wayOut]);
      const [first, second] = [0, 1].map((index) => ({ address: own, port: FIRST_LABEL + index }));
      const [local, other] = [49_152, 49_153].map((port) => ({ address: old, port }));
      if (!local || !other || !first || !second) throw new RangeError('two of each');
      const another = { ...client, port: 3307 };
      if (protocol === 'tcp') await expectDrop('from_cell', later(local, client), 'unknown');
      await expectRun('from_cell', opening(local, client), REDIRECT, opening(first, client));
      await expectRun('from_wire', later(client, first), PASS, later(client, local));
      await expectCreated(
        {
          protocol,
          local,
          remote: client,
          wireLocal: first,
          wireRemote: [{ endpoint: client, ifindex: LOOPBACK }, undefined],
          localSide: CELL_SIDE,
          remoteSide: 0,
          scope: LOOPBACK,
          via: 0,
        },
        0,
      );
      await expectRun('from_cell', opening(local, another), REDIRECT, opening(first, another));
      await expectRun('from_cell', opening(other, client), REDIRECT, opening(second, client));
      const labels = await datapath.removeCreated((flow) => flow.local.port === local.port);
      expect(labels).toEqual([{ protocol, local, scope: LOOPBACK, port: FIRST_LABEL }]);
      // What was given back is drawn again last.
      const third = { address: own, port: FIRST_LABEL + 2 };
      await expectRun('from_cell', opening(local, client), REDIRECT, opening(third, client));
    });

    test('way out: the longest prefix says as whom; none, or an address that means nothing afar: dropped', async () => {
      const bits = far.includes(':') ? 64 : 24;
      const narrow = { ...wayOut, prefix: far, bits, address: peer };
      await datapath.putRules([narrow]);
      const local = { address: old, port: 49_152 };
      await expectDrop('from_cell', opening(local, client), 'unknown');
      await datapath.putRules([wayOut]);
      await expectRun('from_cell', opening(local, client), REDIRECT);
      await expectRun('from_cell', opening(local, { address: far, port: 53 }), REDIRECT);
      const sources = (await datapath.refresh()).map((flow) => [flow.remote.address, flow.wireLocal.address]);
      expect(sources.toSorted()).toEqual(
        [
          [peer, own],
          [far, peer],
        ].toSorted(),
      );
      for (const address of old.includes(':')
        ? ['ff02::fb', 'fe80::1']
        : ['224.0.0.251', '255.255.255.255', '169.254.1.1'])
        await expectDrop('from_cell', opening(local, { address, port: 5353 }), 'unknown');
    });

    test('no label is left: dropped and counted, until one is given back', async () => {
      await datapath.putRules([wayOut]);
      const local = (index: number) => ({ address: old, port: 50_000 + index });
      for (let index = 0; index < wayOut.labels.count; index++)
        await expectRun('from_cell', opening(local(index), client), REDIRECT);
      await expectDrop('from_cell', opening(local(9), client), 'no_label');
      await datapath.removeCreated((flow) => flow.local.port === local(2).port);
      const label = { address: own, port: FIRST_LABEL + 2 };
      await expectRun('from_cell', opening(local(9), client), REDIRECT, opening(label, client));
    });

    test('from a cell to a cell that has moved: both halves are translated', async () => {
      await datapath.putRules([wayOut, follow]);
      const local = { address: peer, port: 49_152 };
      const wire = { address: own, port: FIRST_LABEL };
      await expectRun('from_cell', opening(local, server), REDIRECT, opening(wire, label));
      await expectRun('from_wire', later(label, wire), PASS, later(server, local));
    });

    test('a rule creates so many flows and no more, until some are gone', async () => {
      await datapath.putRules([accept]);
      const from = (index: number) => ({ address: peer, port: 52_000 + index });
      for (let index = 0; index < FLOWS_MAX; index++)
        await expectRun('from_wire', opening(from(index), published), PASS);
      await expectDrop('from_wire', opening(from(FLOWS_MAX), published), 'full');
      await expectRun('from_wire', later(from(0), published), PASS, later(from(0), server));
      await datapath.removeCreated((flow) => flow.remote.port < 52_002);
      for (let index = FLOWS_MAX; index < FLOWS_MAX + 2; index++)
        await expectRun('from_wire', opening(from(index), published), PASS);
      await expectDrop('from_wire', opening(from(FLOWS_MAX + 2), published), 'full');
    });

    test.each([
      ['fenced', 'syn_fenced', 'fenced'],
      ['leaving', 'syn_fenced', 'fenced'],
      ['frozen', 'syn_fenced', 'fenced'],
      ['queued', REDIRECT, 'fenced'],
    ] as const)('a cell that is %s', async (state, way_in, way_out) => {
      await datapath.putRules([accept, wayOut]);
      await datapath.putSide(cellSide({ state, ifindex: LOOPBACK }));
      const local = { address: old, port: 49_152 };
      await expectVerdict('from_wire', opening(client, published), way_in);
      await expectVerdict('from_cell', opening(local, client), way_out);
      expect(await datapath.refresh()).toHaveLength(state === 'queued' ? 1 : 0);
    });

    test.each(['fenced', 'held'] as const)('a remote cell that is %s', async (state) => {
      await datapath.putRules([follow]);
      await datapath.putSide(remoteSide({ state }));
      await expectDrop('to_wire', opening(client, server), state);
      expect(await datapath.refresh()).toEqual([]);
    });

    test('what the agent enters for the same virtual endpoints replaces all of a created flow', async () => {
      await datapath.putRules([accept]);
      await expectRun('from_wire', opening(client, published), PASS);
      const moved: FlowEntry = {
        protocol,
        local: server,
        remote: client,
        wireLocal: label,
        wireRemote: [{ endpoint: client, ifindex: LOOPBACK }, undefined],
        localSide: CELL_SIDE,
        remoteSide: 0,
        scope: LOOPBACK,
        via: 0,
      };
      await datapath.putFlows([moved]);
      expect((await datapath.entries()).flows).toEqual([moved]);
      const ways = await dumpMap(runnerIn(undefined), pinDir(), 'ingress');
      const key = encodeTuple({ protocol, local: label, remote: client });
      expect(ways.map((each) => each.key)).toEqual([key]);
      expect(await datapath.refresh()).toEqual([]);
      // The virtual endpoints are taken: a flow that would have the same is refused, and leaves nothing.
      await expectDrop('from_wire', opening(client, published), 'clash');
      expect(await dumpMap(runnerIn(undefined), pinDir(), 'ingress')).toHaveLength(1);
    });

    test('a flow that the agent did not know of when its remote cell moved on begins anew', async () => {
      await datapath.putRules([follow]);
      await expectRun('to_wire', opening(client, server), REDIRECT);
      const next = { address: far, port: 40_002 };
      await datapath.putSide(remoteSide({ active: 0, accept: acceptOf(0) }));
      await datapath.putRules([{ ...follow, to: { endpoint: next, ifindex: LOOPBACK } }]);
      await expectRun('to_wire', opening(client, server), REDIRECT, opening(client, next));
      await expectRun('from_wire', later(next, client), PASS, later(server, client));
      expect(await datapath.refresh()).toHaveLength(1);
      await datapath.removeCreated(() => false);
      expect(await dumpMap(runnerIn(undefined), pinDir(), 'ingress')).toHaveLength(1);
    });

    test('removal by side and by scope; the next agent finds rules and created flows', async () => {
      await datapath.putRules([accept, follow]);
      await expectRun('from_wire', opening(client, published), PASS);
      await expectRun('to_wire', opening(client, server), REDIRECT);
      const next = await Datapath.open({ pinDir: pinDir(), objectFile: '/nowhere' });
      expect((await next.entries()).rules.map(({ rule }) => rule)).toEqual([accept, follow]);
      expect(await next.refresh()).toHaveLength(2);
      await next.close();
      await datapath.removeCreated(belongsTo({ side: REMOTE_SIDE }));
      expect((await datapath.refresh()).map(({ scope }) => scope)).toEqual([LOOPBACK]);
      await datapath.removeCreated(belongsTo({ scope: LOOPBACK }));
      expect(await datapath.refresh()).toEqual([]);
    });
  });

  test('created flows outlive their rule, and the datapath goes only with the last of them', async () => {
    const rule: Accept = {
      kind: 'accept',
      protocol: 'tcp',
      wire: { address: '10.77.2.2', port: 8080 },
      local: { address: '10.77.1.2', port: 7000 },
      localSide: 0,
      scope: LOOPBACK,
      flowsMax: FLOWS_MAX,
    };
    await datapath.putRules([rule]);
    const client = { address: '10.77.4.2', port: 1 };
    await expectRun('from_wire', packet('tcp', client, rule.wire, SYN), PASS);
    await datapath.removeRules([rule]);
    for (const id of [REMOTE_SIDE, CELL_SIDE]) await datapath.removeSide(id);
    expect(await datapath.removeIfEmpty()).toBe(false);
    await expectRun(
      'from_wire',
      packet('tcp', client, rule.wire, ACK),
      PASS,
      packet('tcp', client, rule.local, ACK),
    );
    await datapath.removeCreated(() => true);
    expect(await datapath.removeIfEmpty()).toBe(true);
    await datapath.putSide(cellSide({}));
  });

  test("removals at the same time do not get in each other's way; where nothing is loaded nothing is", async () => {
    const way: WayOut = {
      kind: 'way_out',
      scope: LOOPBACK,
      prefix: '0.0.0.0',
      bits: 0,
      address: '10.77.2.2',
      ifindex: LOOPBACK,
      localSide: 0,
      labels: { first: FIRST_LABEL, count: 4 },
      flowsMax: FLOWS_MAX,
    };
    await datapath.putRules([way]);
    for (const port of [1, 2, 3]) {
      const local = { address: '10.77.1.2', port };
      await expectRun('from_cell', packet('udp', local, { address: '10.77.4.2', port: 53 }, 0), REDIRECT);
    }
    const removals = [1, 2, 3].map((port) => datapath.removeCreated((flow) => flow.local.port === port));
    expect((await Promise.all(removals)).map((labels) => labels.length)).toEqual([1, 1, 1]);
    await datapath.removeRules([way]);
    for (const id of [REMOTE_SIDE, CELL_SIDE]) await datapath.removeSide(id);
    expect(await datapath.removeIfEmpty()).toBe(true);
    expect(await datapath.removeCreated(() => true)).toEqual([]);
    expect(await datapath.refresh()).toEqual([]);
    await expect(stat(pinDir())).rejects.toThrow('ENOENT');
    await datapath.putSide(cellSide({}));
  });

  test('a rule whose side is missing, or of two families, is refused', async () => {
    const way: WayOut = {
      kind: 'way_out',
      scope: 5,
      prefix: '::',
      bits: 0,
      address: '10.77.2.2',
      ifindex: 1,
      localSide: 0,
      labels: { first: FIRST_LABEL, count: 1 },
      flowsMax: 1,
    };
    await expect(datapath.putRules([way])).rejects.toThrow('mixes');
    const lost = { ...way, prefix: '0.0.0.0', localSide: 4242 };
    await expect(datapath.putRules([lost])).rejects.toThrow('side 4242');
  });
});

function pinDir(): string {
  return join(directory, 'bpf');
}

function remoteSide(more: Partial<Side>): Side {
  return { id: REMOTE_SIDE, state: 'moved', active: 1, accept: acceptOf(1), ifindex: 0, ...more };
}

function cellSide(more: Partial<Side>): Side {
  return { id: CELL_SIDE, state: 'home', active: 0, accept: acceptOf(0), ifindex: 0, ...more };
}

function packet(protocol: Protocol, from: Endpoint, to: Endpoint, flags: number): Buffer {
  return frame({ protocol, from, to, flags });
}

/** The created flow is there, and its elements are byte for byte those that the agent would have entered. */
async function expectCreated(flow: FlowEntry, slot: 0 | 1): Promise<void> {
  const [created] = await datapath.refresh();
  if (created?.rule === undefined) throw new Error('no flow was created');
  expect(created).toEqual({ ...flow, rule: created.rule });
  const remote = flow.wireRemote[slot]?.endpoint ?? flow.remote;
  const wire = encodeTuple({ protocol: flow.protocol, local: flow.wireLocal, remote });
  const [ingress, egress] = await Promise.all(
    (['ingress', 'egress'] as const).map((map) => dumpMap(runnerIn(undefined), pinDir(), map)),
  );
  const { ingress_value, egress_value } = LAYOUT;
  expect(unused(ingress, ingress_value)).toEqual([{ key: wire, values: [encodeIngress(flow, slot)] }]);
  const wayOut = { key: encodeEgressKey(flow), values: [encodeEgressValue(created)] };
  expect(unused(egress, egress_value)).toEqual([wayOut]);
}

/** As if no packet had passed. */
function unused(elements: readonly Element[] = [], { used }: { readonly used: number }): Element[] {
  const never = (value: Uint8Array) => value.map((byte, index) => (index < used ? byte : 0));
  return elements.map(({ key, values }) => ({ key, values: values.map(never) }));
}
