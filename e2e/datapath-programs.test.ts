/** The programs one by one, packet by packet, through BPF_PROG_TEST_RUN: what comes out, byte for byte. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { execa } from 'execa';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { Endpoint, Protocol } from '../agent/address.ts';
import { Batch } from '../agent/datapath/batch.ts';
import { deleteLine, MAPS, mapPath, updateLine } from '../agent/datapath/bpftool.ts';
import { Datapath } from '../agent/datapath/datapath.ts';
import { CELLS_MAX } from '../agent/datapath/inside.ts';
import { encodeCell, encodeId, encodeSide, LAYOUT } from '../agent/datapath/layout.ts';
import { acceptOf, COUNTERS, type FlowEntry, RELAY, type Side } from '../agent/datapath/model.ts';
import { objectFile } from '../agent/datapath/object.ts';
import { ROOMS_MAX } from '../agent/datapath/rooms.ts';
import {
  ACCEPTS_MAX,
  FOLLOWS_MAX,
  LABELS_MAX,
  RULE_LAYOUT,
  RULES_MAX,
  WAYS_OUT_MAX,
} from '../agent/datapath/rules.ts';
import { SEEN_MAX, WATCHED_MAX } from '../agent/datapath/seen.ts';
import { FLOWS_MAX, FORWARDS_MAX, LISTENERS_MAX, SIDES_MAX } from '../agent/datapath/table.ts';
import { remove } from './datapaths.ts';
import { ACK, arpFrame, frame, icmpFrame, type Packet, RST, SYN } from './packets.ts';
import { DROP, expectations, LOOPBACK, PASS, REDIRECT } from './programs.ts';
import { datapathUntestable } from './tools.ts';

const REMOTE_SIDE = 1;
const CELL_SIDE = 2;
/** Long enough for a few runs of bpftool at once. */
const WATCH_MS = 1_000;

const untestable = await datapathUntestable();

let directory: string;
let datapath: Datapath;
const { expectRun, expectVerdict } = expectations(() => ({ datapath, pinDir: pinDir() }));

const FAMILIES = [
  { family: 'IPv4', peer: '10.77.4.2', old: '10.77.1.2', next: '10.77.2.2' },
  { family: 'IPv6', peer: 'fd00:4::2', old: 'fd00:1::2', next: 'fd00:2::2' },
] as const;

const CASES = FAMILIES.flatMap((addresses) =>
  (['tcp', 'udp'] as const).map((protocol) => ({ ...addresses, protocol })),
);

describe.skipIf(untestable !== undefined)(`the programs ${untestable ?? ''}`, () => {
  beforeAll(async () => {
    directory = await mkdtemp(join(tmpdir(), 'osmosis-programs-'));
    datapath = await Datapath.open({ pinDir: join(directory, 'bpf'), objectFile: await objectFile() });
  });

  beforeEach(async () => {
    await datapath.putSide({ id: REMOTE_SIDE, state: 'moved', active: 1, accept: acceptOf(1), ifindex: 0 });
    await datapath.putSide({ id: CELL_SIDE, state: 'home', active: 0, accept: acceptOf(0), ifindex: 0 });
  });

  afterAll(async () => {
    await remove(datapath, pinDir());
    await rm(directory, { recursive: true });
  });

  describe.each(CASES)('$protocol over $family', ({ protocol, peer, old, next }) => {
    const virtual = { local: { address: peer, port: 51000 }, remote: { address: old, port: 7000 } };
    const label = { address: next, port: 40001 };
    /** At the peer: the server has moved from `old` to `next`. */
    const atPeer: FlowEntry = {
      protocol,
      ...virtual,
      wireLocal: virtual.local,
      wireRemote: [
        { endpoint: virtual.remote, ifindex: LOOPBACK },
        { endpoint: label, ifindex: LOOPBACK },
      ],
      localSide: 0,
      remoteSide: REMOTE_SIDE,
      scope: 0,
      via: 0,
    };
    /** At the new host: the same flow, in the cell. */
    const atHost: FlowEntry = {
      protocol,
      local: virtual.remote,
      remote: virtual.local,
      wireLocal: label,
      wireRemote: [{ endpoint: virtual.local, ifindex: LOOPBACK }, undefined],
      localSide: CELL_SIDE,
      remoteSide: 0,
      scope: LOOPBACK,
      via: 0,
    };
    const packet = (from: Endpoint, to: Endpoint, more: Partial<Packet> = {}): Packet => ({
      protocol,
      from,
      to,
      ...more,
    });

    beforeEach(() => datapath.putFlows([atPeer, atHost]));

    test.each([
      ['an ordinary packet', {}],
      ['one with options', { options: true }],
      ['one without payload', { payload: '' }],
      ['a long one', { payload: 'x'.repeat(1400) }],
      ['one of odd length', { payload: 'odd' }],
    ])('%s is rewritten on its way, with right checksums', async (_, more) => {
      const { local, remote } = virtual;
      const there = frame(packet(local, label, more));
      const back = frame(packet(label, local, more));
      const cell = frame(packet(remote, local, more));
      await expectRun('to_wire', frame(packet(local, remote, more)), REDIRECT, there);
      await expectRun('from_wire', back, PASS, cell);
      await expectRun('from_wire', there, PASS, frame(packet(local, remote, more)));
      await expectRun('from_cell', cell, REDIRECT, back);
    });

    test('goes into the cell where the cell has a device', async () => {
      await datapath.putSide({
        id: CELL_SIDE,
        state: 'home',
        active: 0,
        accept: acceptOf(0),
        ifindex: LOOPBACK,
      });
      const { local, remote } = virtual;
      await expectRun('from_wire', frame(packet(local, label)), REDIRECT, frame(packet(local, remote)));
    });

    test('other flows between the same hosts are not touched', async () => {
      const other = { address: old, port: 7001 };
      for (const untouched of [frame(packet(virtual.local, other)), frame(packet(other, virtual.local))]) {
        await expectRun('to_wire', untouched, PASS, untouched);
        await expectRun('from_wire', untouched, PASS, untouched);
      }
    });

    test.each([
      ['home', 0, [0], { out: PASS, old: PASS, next: 'stale' }],
      ['armed', 0, [0, 1], { out: PASS, old: PASS, next: PASS }],
      ['moved', 1, [1], { out: REDIRECT, old: 'stale', next: PASS }],
      ['held', 0, [0, 1], { out: 'held', old: PASS, next: PASS }],
      ['fenced', 0, [0, 1], { out: 'fenced', old: 'fenced', next: 'fenced' }],
    ] as const)('a remote side that is %s', async (state, active, slots, verdicts) => {
      await datapath.putSide({ id: REMOTE_SIDE, state, active, accept: acceptOf(...slots), ifindex: 0 });
      const { local, remote } = virtual;
      await expectVerdict('to_wire', frame(packet(local, remote)), verdicts.out);
      await expectVerdict('from_wire', frame(packet(remote, local)), verdicts.old);
      await expectVerdict('from_wire', frame(packet(label, local)), verdicts.next);
    });

    test('a reset counts only from where the cell is', async () => {
      if (protocol === 'udp') return;
      await datapath.putSide({
        id: REMOTE_SIDE,
        state: 'armed',
        active: 0,
        accept: acceptOf(0, 1),
        ifindex: 0,
      });
      const reset = { flags: RST };
      await expectVerdict('from_wire', frame(packet(label, virtual.local, reset)), 'stale');
      await expectVerdict('from_wire', frame(packet(virtual.remote, virtual.local, reset)), PASS);
      await datapath.putSide({ id: REMOTE_SIDE, state: 'moved', active: 1, accept: acceptOf(1), ifindex: 0 });
      await expectVerdict('from_wire', frame(packet(label, virtual.local, reset)), PASS);
    });

    test('a cell that is fenced', async () => {
      await datapath.putSide({ id: CELL_SIDE, state: 'fenced', active: 0, accept: acceptOf(0), ifindex: 0 });
      await expectVerdict('from_wire', frame(packet(virtual.local, label)), 'fenced');
      await expectVerdict('from_cell', frame(packet(virtual.remote, virtual.local)), 'fenced');
    });

    test('a cell that is frozen here sends on what its peers say, to where it will be', async () => {
      const further = { address: old, port: 40_777 };
      const forward = { protocol, local: label, peer, to: { endpoint: further, ifindex: LOOPBACK } };
      await datapath.putForwards([forward]);
      await expectRun('from_wire', frame(packet(virtual.local, label)), PASS);
      await datapath.putSide({ id: CELL_SIDE, state: 'leaving', active: 0, accept: acceptOf(0), ifindex: 0 });
      const onward = frame(packet(virtual.local, further));
      await expectRun('from_wire', frame(packet(virtual.local, label)), REDIRECT, onward);
      // The process runs until CRIU has stopped it: what it says meanwhile must not be lost.
      await expectRun('from_cell', frame(packet(virtual.remote, virtual.local)), REDIRECT);
      // From then on only its sockets would say something, and the peers must not hear that.
      await datapath.putSide({ id: CELL_SIDE, state: 'frozen', active: 0, accept: acceptOf(0), ifindex: 0 });
      await expectRun('from_wire', frame(packet(virtual.local, label)), REDIRECT, onward);
      await expectVerdict('from_cell', frame(packet(virtual.remote, virtual.local)), 'fenced');
      expect((await datapath.entries()).forwards).toEqual([forward]);
      await datapath.removeForwards([forward]);
      await expectVerdict('from_wire', frame(packet(virtual.local, label)), 'fenced');
    });

    test('a cell that is being restored takes packets into its queue, and says nothing', async () => {
      const side = { id: CELL_SIDE, active: 0, accept: acceptOf(0), ifindex: LOOPBACK } as const;
      await datapath.putSide({ ...side, state: 'queued' });
      const { local, remote } = virtual;
      await expectRun('from_wire', frame(packet(local, label)), REDIRECT, frame(packet(local, remote)));
      await expectVerdict('from_cell', frame(packet(remote, local)), 'fenced');
    });

    test('a peer without an agent is relayed, both ways, by a router that counts hops', async () => {
      const legacy = { address: peer, port: 52000 };
      const own = { address: old, port: 40101 };
      const relayed = {
        protocol,
        local: legacy,
        remote: virtual.remote,
        wireLocal: own,
        scope: RELAY,
      } as const;
      const wireRemote = [{ endpoint: label, ifindex: LOOPBACK }, undefined] as const;
      const via = LOOPBACK + 1;
      await datapath.putFlows([{ ...relayed, wireRemote, localSide: 0, remoteSide: CELL_SIDE, via }]);
      const there = packet(legacy, virtual.remote, { hops: 9 });
      await expectRun('from_wire', frame(there), REDIRECT, frame(packet(own, label, { hops: 8 })));
      const back = packet(label, own, { hops: 9 });
      const answer = frame(packet(virtual.remote, legacy, { hops: 8 }));
      await expectRun('from_wire', frame(back), REDIRECT, answer);
      await expectVerdict('from_wire', frame({ ...there, hops: 1 }), 'errors');
      await expectVerdict('from_wire', frame({ ...back, hops: 1 }), 'errors');
      await datapath.putSide({ id: CELL_SIDE, state: 'held', active: 0, accept: acceptOf(0), ifindex: 0 });
      // TCP is answered: see datapath-answers.test.ts.
      await expectVerdict('from_wire', frame(there), protocol === 'udp' ? 'held' : REDIRECT);
      expect((await datapath.entries()).flows).toContainEqual(expect.objectContaining({ ...relayed, via }));
      await datapath.removeFlows([relayed]);
      await expectRun('from_wire', frame(there), PASS, frame(there));
    });

    test('packets of an entered flow are sent out of the cell instead of round; no others', async () => {
      const batch = new Batch();
      // The class that packets have in a run like this.
      const inside = { id: 0, scope: LOOPBACK, ifindex: 5 };
      await batch.run([updateLine(pinDir(), 'cells', encodeId(inside.id), encodeCell(inside))]);
      const out = frame(packet(virtual.remote, virtual.local));
      await expectRun('cell_out', out, REDIRECT, out);
      await expectRun('cell_out', frame(packet(virtual.remote, label)), PASS);
      await expectRun(
        'cell_out',
        frame(packet(virtual.remote, virtual.local, { fragment: { offset: 8, more: true } })),
        PASS,
      );
      await batch.run([deleteLine(pinDir(), 'cells', encodeId(inside.id))]);
      await batch.close();
      await expectRun('cell_out', out, PASS);
      await expectRun('cell_in', out, PASS, out);
    });

    test('what has waited for a process at home goes in by the device of its flow', async () => {
      const waiting = frame(packet(virtual.remote, virtual.local));
      await expectRun('from_queue', waiting, REDIRECT);
      await datapath.removeFlows([atPeer]);
      await expectRun('from_queue', waiting, PASS, waiting);
    });

    test('nothing else leaves a cell, not even what it says to its host as a neighbour', async () => {
      await expectVerdict('from_cell', frame(packet(virtual.remote, { address: peer, port: 9 })), 'unknown');
      await expectRun('from_cell', arpFrame(), DROP);
      if (peer.includes(':')) await expectRun('from_cell', icmpFrame(old, peer), DROP);
      else await expectVerdict('from_cell', icmpFrame(old, peer), 'unknown');
    });
  });

  test('a UDP datagram without a checksum keeps having none', async () => {
    const { peer, old, next } = FAMILIES[0];
    const [from, to] = [
      { address: peer, port: 51000 },
      { address: next, port: 40001 },
    ];
    const datagram = { protocol: 'udp', noChecksum: true } as const;
    const virtual = frame({ ...datagram, from, to: { address: old, port: 7000 } });
    await expectRun('from_wire', frame({ ...datagram, from, to }), PASS, virtual);
  });

  test('of a port that is watched, who it exchanges datagrams with is noted; of others not', async () => {
    const own = { address: '10.77.1.2', port: 5353 };
    const own6 = { address: 'fd00:1::2', port: 5353 };
    const [a, b, c] = [1, 2, 3].map((port) => ({ address: '10.77.4.2', port }));
    const six = { address: 'fd00:4::2', port: 4 };
    const udp = (from: Endpoint | undefined, to: Endpoint | undefined, protocol: Protocol = 'udp') =>
      frame({ protocol, from: from ?? own, to: to ?? own });
    const watching = datapath.watch([own.port], [], WATCH_MS, new AbortController().signal);
    await Promise.all([
      expectRun('from_wire', udp(a, own), PASS),
      expectRun('from_wire', udp(a, own), PASS),
      expectRun('to_wire', udp(own, b), PASS),
      expectRun('from_wire', udp(six, own6), PASS),
      expectRun('from_wire', udp(c, own, 'tcp'), PASS),
      expectRun('from_wire', udp(c, { ...own, port: 53 }), PASS),
    ]);
    const seen = await watching;
    expect(seen.toSorted((x, y) => x.remote.port - y.remote.port)).toEqual([
      { protocol: 'udp', local: own, remote: a },
      { protocol: 'udp', local: own, remote: b },
      { protocol: 'udp', local: own6, remote: six },
    ]);
    await expectRun('from_wire', udp(c, own), PASS);
    expect(await datapath.watch([own.port], [], 0, new AbortController().signal)).toEqual([]);
  });

  describe('fenced listeners', () => {
    const SYN_TO_V4 = { from: { address: '10.77.4.2', port: 999 }, to: { address: '10.77.1.2', port: 80 } };
    const SYN_TO_V6 = { from: { address: 'fd00:4::2', port: 999 }, to: { address: 'fd00:1::2', port: 80 } };
    const syn = (ends: { from: Endpoint; to: Endpoint }, flags = SYN, protocol: Protocol = 'tcp') =>
      frame({ protocol, flags, ...ends });

    test.each([
      ['::', 'syn_fenced', 'syn_fenced'],
      ['0.0.0.0', 'syn_fenced', PASS],
      ['10.77.1.2', 'syn_fenced', PASS],
      ['fd00:1::2', PASS, 'syn_fenced'],
      ['10.77.1.3', PASS, PASS],
    ] as const)('at %s', async (address, v4, v6) => {
      await datapath.fenceListeners([{ address, port: 80 }]);
      await expectVerdict('from_wire', syn(SYN_TO_V4), v4);
      await expectVerdict('from_wire', syn(SYN_TO_V6), v6);
      await expectVerdict('from_wire', syn(SYN_TO_V4, SYN | ACK), PASS);
      await expectVerdict('from_wire', syn(SYN_TO_V4, ACK), PASS);
      await expectVerdict('from_wire', syn(SYN_TO_V4, SYN, 'udp'), PASS);
      await datapath.unfenceListeners([{ address, port: 80 }]);
      await expectVerdict('from_wire', syn(SYN_TO_V4), PASS);
      await expectVerdict('from_wire', syn(SYN_TO_V6), PASS);
    });
  });

  describe('layout.ts and osmosis.bpf.c say the same', () => {
    type BtfType = {
      readonly id: number;
      readonly kind: string;
      readonly name: string;
      readonly size?: number;
      readonly members?: readonly { readonly name: string; readonly bits_offset: number }[];
    };
    let types: readonly BtfType[];

    beforeAll(async () => {
      const { stdout } = await execa('bpftool', ['-j', 'btf', 'dump', 'file', await objectFile()]);
      types = JSON.parse(stdout).types;
    });

    test.each(Object.entries({ ...LAYOUT, ...RULE_LAYOUT }))('struct %s', (name, { bytes, ...offsets }) => {
      const struct = types.find((type) => type.kind === 'STRUCT' && type.name === name);
      expect(struct?.size).toBe(bytes);
      expect(
        Object.fromEntries((struct?.members ?? []).map((each) => [each.name, each.bits_offset / 8])),
      ).toEqual(offsets);
    });

    test('maps', async () => {
      const show = async (map: (typeof MAPS)[number]) => {
        const { stdout } = await execa('bpftool', ['-j', 'map', 'show', 'pinned', mapPath(pinDir(), map)]);
        const { bytes_key, bytes_value, max_entries } = JSON.parse(stdout);
        return [bytes_key, bytes_value, max_entries];
      };
      expect(Object.fromEntries(await Promise.all(MAPS.map(async (map) => [map, await show(map)])))).toEqual({
        ingress: [LAYOUT.tuple.bytes, LAYOUT.ingress_value.bytes, 2 * FLOWS_MAX],
        egress: [LAYOUT.egress_key.bytes, LAYOUT.egress_value.bytes, FLOWS_MAX],
        relays: [LAYOUT.tuple.bytes, LAYOUT.relay_state.bytes, FLOWS_MAX],
        sides: [4, LAYOUT.side.bytes, SIDES_MAX],
        rooms: [4, LAYOUT.room.bytes, ROOMS_MAX],
        listeners: [LAYOUT.listener.bytes, 4, LISTENERS_MAX],
        forwards: [LAYOUT.tuple.bytes, LAYOUT.wire_slot.bytes, FORWARDS_MAX],
        watched: [4, 4, WATCHED_MAX],
        seen: [LAYOUT.tuple.bytes, 4, SEEN_MAX],
        cells: [4, LAYOUT.cell.bytes, CELLS_MAX],
        accepts: [RULE_LAYOUT.place.bytes, RULE_LAYOUT.rule.bytes, ACCEPTS_MAX],
        follows: [RULE_LAYOUT.place.bytes, RULE_LAYOUT.rule.bytes, FOLLOWS_MAX],
        ways_out: [RULE_LAYOUT.way_key.bytes, RULE_LAYOUT.rule.bytes, WAYS_OUT_MAX],
        labels: [RULE_LAYOUT.label_owner.bytes, RULE_LAYOUT.label.bytes, LABELS_MAX],
        drawn: [RULE_LAYOUT.label.bytes, RULE_LAYOUT.label_owner.bytes, LABELS_MAX],
        spent: [4, 4, RULES_MAX],
        counters: [4, 8, COUNTERS.length],
      });
    });
  });

  describe('the maps', () => {
    const side: Side = { id: 77, state: 'armed', active: 0, accept: acceptOf(0, 1), ifindex: 0 };

    test('10,000 flows go in, come back as they were, and go out', async () => {
      await datapath.putSide(side);
      const flows = Array.from({ length: 10_000 }, (_, index) => manyFlow(index, side.id));
      await datapath.putFlows(flows);
      const mine = (await datapath.entries()).flows.filter(({ remoteSide }) => remoteSide === side.id);
      const byPort = (a: FlowEntry, b: FlowEntry) => a.local.port - b.local.port;
      expect(mine.toSorted(byPort)).toEqual(flows);
      await datapath.removeFlows(flows);
      expect((await datapath.entries()).flows.filter(({ remoteSide }) => remoteSide === side.id)).toEqual([]);
      await datapath.removeSide(side.id);
    });

    test('the flip does not wait for the flows of another migration', async () => {
      await datapath.putSide(side);
      const flows = Array.from({ length: 5_000 }, (_, index) => manyFlow(index, side.id));
      let written = false;
      const writing = datapath.putFlows(flows).then(() => {
        written = true;
      });
      await datapath.putSide({ ...side, state: 'moved', active: 1 });
      expect(written).toBe(false);
      await writing;
      expect((await datapath.entries()).sides).toContainEqual({ ...side, state: 'moved', active: 1 });
      await datapath.removeFlows(flows);
      await datapath.removeSide(side.id);
    });

    test('a flow whose side is missing is refused', async () => {
      await expect(datapath.putFlows([manyFlow(0, 4242)])).rejects.toThrow('side 4242');
    });

    test('an abort ends a long list early', async () => {
      await datapath.putSide(side);
      const flows = Array.from({ length: 5_000 }, (_, index) => manyFlow(index, side.id));
      const signal = AbortSignal.abort();
      await expect(datapath.putFlows(flows, signal)).rejects.toMatchObject({ code: 'DATAPATH' });
      await datapath.removeFlows(flows);
      await datapath.removeSide(side.id);
    });

    test('a line that the kernel refuses is an error with its reason; the next one works', async () => {
      const batch = new Batch();
      const gone = deleteLine(pinDir(), 'sides', Uint8Array.of(9, 9, 9, 9));
      await expect(batch.run([gone])).rejects.toThrow(/delete failed: No such file or directory/);
      await batch.run([updateLine(pinDir(), 'sides', encodeId(99), encodeSide({ ...side, id: 99 }))]);
      await batch.run([deleteLine(pinDir(), 'sides', encodeId(99))]);
      await batch.close();
    });

    test('another agent adopts what is pinned, and removes nothing that is in use', async () => {
      const options = { pinDir: pinDir(), objectFile: '/nowhere' };
      const next = await Datapath.open(options);
      const [theirs, ours] = [await next.entries(), await datapath.entries()];
      expect(theirs).toEqual(ours);
      expect(await next.removeIfEmpty()).toBe(false);
      await next.close();
    });
  });
});

function pinDir(): string {
  return join(directory, 'bpf');
}

function manyFlow(index: number, remoteSide: number): FlowEntry {
  const local = { address: '10.77.4.9', port: 10_000 + index };
  return {
    protocol: 'tcp',
    local,
    remote: { address: '10.77.1.9', port: 7000 },
    wireLocal: local,
    wireRemote: [
      { endpoint: { address: '10.77.1.9', port: 7000 }, ifindex: LOOPBACK },
      { endpoint: { address: '10.77.2.9', port: 40009 }, ifindex: LOOPBACK },
    ],
    localSide: 0,
    remoteSide,
    scope: 0,
    via: 0,
  };
}
