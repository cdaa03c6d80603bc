/** ICMP errors and fragments of translated flows, packet by packet, through BPF_PROG_TEST_RUN. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, test } from 'vitest';
import { Datapath } from '../agent/datapath/datapath.ts';
import { acceptOf, type FlowEntry, RELAY, type Side } from '../agent/datapath/model.ts';
import { objectFile } from '../agent/datapath/object.ts';
import { remove } from './datapaths.ts';
import { errorFrame, fragments, frame, icmpFrame, type Packet, tagged } from './packets.ts';
import { expectations, LOOPBACK, PASS, REDIRECT } from './programs.ts';
import { datapathUntestable } from './tools.ts';

const REMOTE_SIDE = 1;
const CELL_SIDE = 2;
const MOVED: Side = { id: REMOTE_SIDE, state: 'moved', active: 1, accept: acceptOf(1), ifindex: 0 };
const CELL: Side = { id: CELL_SIDE, state: 'home', active: 0, accept: acceptOf(0), ifindex: LOOPBACK };

const CASES = [
  { ip: 20, family: 'IPv4', peer: '10.77.4.2', old: '10.77.1.2', next: '10.77.2.2', router: '10.77.9.1' },
  { ip: 40, family: 'IPv6', peer: 'fd00:4::2', old: 'fd00:1::2', next: 'fd00:2::2', router: 'fd00:9::1' },
].flatMap((addresses) => (['tcp', 'udp'] as const).map((protocol) => ({ ...addresses, protocol })));

const untestable = await datapathUntestable();

describe.skipIf(untestable !== undefined)(`errors and fragments ${untestable ?? ''}`, () => {
  let directory: string;
  let datapath: Datapath;
  const { expectRun, expectDrop } = expectations(() => ({ datapath, pinDir: join(directory, 'bpf') }));

  beforeAll(async () => {
    directory = await mkdtemp(join(tmpdir(), 'osmosis-errors-'));
    datapath = await Datapath.open({ pinDir: join(directory, 'bpf'), objectFile: await objectFile() });
  });

  beforeEach(async () => {
    await datapath.putSide(MOVED);
    await datapath.putSide(CELL);
  });

  afterAll(async () => {
    await remove(datapath, join(directory, 'bpf'));
    await rm(directory, { recursive: true });
  });

  describe.each(CASES)('$protocol over $family', ({ protocol, ip, peer, old, next, router }) => {
    const client = { address: peer, port: 51000 };
    const server = { address: old, port: 7000 };
    const label = { address: next, port: 40001 };
    const slotOf = (endpoint: typeof label) => ({ endpoint, ifindex: LOOPBACK });
    const atPeer: FlowEntry = {
      protocol,
      local: client,
      remote: server,
      wireLocal: client,
      wireRemote: [slotOf(server), slotOf(label)],
      localSide: 0,
      remoteSide: REMOTE_SIDE,
      scope: 0,
      via: 0,
    };
    const atHost: FlowEntry = {
      protocol,
      local: server,
      remote: client,
      wireLocal: label,
      wireRemote: [slotOf(client), undefined],
      localSide: CELL_SIDE,
      remoteSide: 0,
      scope: LOOPBACK,
      via: 0,
    };
    /** As it is on the wire, and as the two ends see it. */
    const packets = (more: Partial<Packet> = {}) => ({
      toLabel: { protocol, from: client, to: label, ...more },
      fromLabel: { protocol, from: label, to: client, ...more },
      toServer: { protocol, from: client, to: server, ...more },
      fromServer: { protocol, from: server, to: client, ...more },
    });
    const error = (from: string, to: string, about: Packet, quoted = 1000) =>
      errorFrame({ from, to, about: frame(about), quoted });

    beforeEach(() => datapath.putFlows([atPeer, atHost]));

    test.each([
      ['quoted in full', {}, 1000],
      ['of which 8 bytes behind its addresses are quoted', {}, ip + 8],
      ['of odd length', { payload: 'odd' }, 1000],
      ['cut at an odd place', { payload: 'x'.repeat(1400) }, ip + 333],
      ['without a checksum, if it can have none', { noChecksum: protocol === 'udp' && ip === 20 }, 1000],
      ['with options', { options: true }, 1000],
    ])('an error about a packet %s', async (_, more, quoted) => {
      const { toLabel, fromLabel, toServer, fromServer } = packets(more);
      const say = (from: string, to: string, about: Packet) => error(from, to, about, quoted);
      // A router's, to the peer and to the cell.
      await expectRun('from_wire', say(router, peer, toLabel), PASS, say(router, peer, toServer));
      await expectRun('from_wire', say(router, next, fromLabel), REDIRECT, say(router, old, fromServer));
      // The stack at the other end, to both; and what those two say themselves.
      await expectRun('from_wire', say(next, peer, toLabel), PASS, say(old, peer, toServer));
      await expectRun('from_cell', say(old, peer, toServer), REDIRECT, say(next, peer, toLabel));
      await expectRun('to_wire', say(peer, old, fromServer), REDIRECT, say(peer, next, fromLabel));
    });

    test('errors about what a relay has sent go back to the peer; fragments of a peer follow the first', async () => {
      const own = { address: old, port: 40101 };
      const legacy = { address: peer, port: 52000 };
      const relayed: FlowEntry = {
        protocol,
        local: legacy,
        remote: server,
        wireLocal: own,
        wireRemote: [slotOf(label), undefined],
        localSide: 0,
        remoteSide: 0,
        scope: RELAY,
        via: LOOPBACK + 1,
      };
      await datapath.putFlows([relayed]);
      const said = { protocol, from: legacy, to: server, payload: 'x'.repeat(101) } as const;
      const on = { ...said, from: own, to: label };
      const passedOn = { from: router, to: peer, about: frame(said), quoted: 1000, hops: 63 };
      await expectRun('from_wire', error(router, old, on), REDIRECT, errorFrame(passedOn));
      await expectRun('from_wire', error(peer, old, { ...said, from: server, to: legacy }), PASS);
      const there = fragments({ ...on, hops: 63 }, 24);
      for (const [index, fragment] of fragments(said, 24).entries()) {
        await expectRun('from_wire', fragment, REDIRECT, there[index]);
      }
      const back = fragments({ ...said, from: server, to: legacy, hops: 63 }, 24);
      for (const [index, fragment] of fragments({ ...said, from: label, to: own }, 24).entries()) {
        await expectRun('from_wire', fragment, REDIRECT, back[index]);
      }
      await datapath.removeFlows([relayed]);
    });

    test('errors about anything else are left alone, and do not leave a cell', async () => {
      const other = { protocol, from: client, to: { address: next, port: 9 } } as const;
      const back = { protocol, from: other.to, to: client } as const;
      for (const untouched of [
        error(router, peer, other),
        error(router, next, back),
        // For somebody else than the sender of what it quotes.
        error(router, old, packets().toLabel),
        error(router, peer, packets().toLabel, ip + 2),
        icmpFrame(router, peer),
      ]) {
        await expectRun('from_wire', untouched, PASS, untouched);
        await expectRun('to_wire', untouched, PASS, untouched);
      }
      await expectDrop('from_cell', error(old, peer, other), 'unknown');
      await expectDrop('from_cell', error(router, peer, packets().toServer), 'unknown');
    });

    test('errors respect where the two ends are', async () => {
      const { toLabel, fromLabel, toServer } = packets();
      await datapath.putSide({ ...MOVED, state: 'armed', active: 0, accept: acceptOf(0, 1) });
      await expectDrop('from_wire', error(next, peer, toLabel), 'stale');
      for (const state of ['leaving', 'frozen', 'queued', 'fenced'] as const) {
        await datapath.putSide({ ...CELL, state });
        await expectDrop('from_wire', error(router, next, fromLabel), 'fenced');
      }
      await expectDrop('from_cell', error(old, peer, toServer), 'fenced');
    });

    test('an error about a first fragment', async () => {
      const { toLabel, toServer } = packets({ payload: 'x'.repeat(100) });
      const [before] = fragments(toLabel, 24);
      const [after] = fragments(toServer, 24);
      const ends = { from: router, to: peer, quoted: 1000 };
      await expectRun(
        'from_wire',
        errorFrame({ ...ends, about: before }),
        PASS,
        errorFrame({ ...ends, about: after }),
      );
    });

    test('fragments follow the first one, whatever comes between', async () => {
      const { toLabel, fromLabel, toServer, fromServer } = packets({ payload: 'x'.repeat(101) });
      const ways = [
        ['to_wire', toServer, REDIRECT, toLabel],
        ['from_wire', fromLabel, PASS, fromServer],
        ['from_wire', toLabel, REDIRECT, toServer],
        ['from_cell', fromServer, REDIRECT, fromLabel],
      ] as const;
      for (const [program, before, verdict, after] of ways) {
        const inputs = fragments(before, 104);
        const outputs = fragments(after, 104);
        // Before the first one nobody knows whose it is. (Here only while no other program has seen the same.)
        await expectRun(program, inputs[0], verdict, outputs[0]);
        await expectRun(program, inputs[1], verdict, outputs[1]);
        await expectRun(program, inputs[1], verdict, outputs[1]);
      }
    });

    test('fragments of a cell that is frozen or restored go with their first one', async () => {
      const { toLabel, toServer } = packets({ payload: 'x'.repeat(101) });
      const further = { address: old, port: 40_777 };
      const forward = { protocol, local: label, peer, to: slotOf(further) };
      await datapath.putForwards([forward]);
      await datapath.putSide({ ...CELL, state: 'leaving' });
      const onward = fragments({ ...toLabel, to: further }, 24);
      for (const [index, input] of fragments(toLabel, 24).entries()) {
        await expectRun('from_wire', input, REDIRECT, onward[index]);
      }
      await datapath.removeForwards([forward]);
      await datapath.putSide({ ...CELL, state: 'queued' });
      for (const [index, input] of fragments(toLabel, 24).entries()) {
        await expectRun('from_wire', input, REDIRECT, fragments(toServer, 24)[index]);
      }
    });

    test('frames with VLAN tags are left alone: they belong to the VLAN device', async () => {
      const { toLabel, toServer } = packets();
      for (const once of [
        tagged(frame(toLabel)),
        tagged(frame(toServer)),
        tagged(error(router, peer, toLabel)),
      ]) {
        for (const untouched of [once, tagged(once)]) {
          await expectRun('from_wire', untouched, PASS, untouched);
          await expectRun('to_wire', untouched, PASS, untouched);
          await expectDrop('from_cell', untouched, 'unknown');
        }
      }
    });

    test('fragments of which nothing is known are left alone, and do not leave a cell', async () => {
      const stranger = { protocol, from: { address: router, port: 1 }, to: client, payload: 'x'.repeat(101) };
      for (const untouched of fragments(stranger, 104)) {
        await expectRun('from_wire', untouched, PASS, untouched);
        await expectRun('to_wire', untouched, PASS, untouched);
        await expectDrop('from_cell', untouched, 'unknown');
      }
    });
  });
});
