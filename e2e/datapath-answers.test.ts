/**
 * What the programs say for a suspended cell, byte for byte. Through BPF_PROG_TEST_RUN no socket is asked, so these are
 * answers to a peer that is relayed for; those to sockets differ in where the numbers come from: datapath-hold.test.ts.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { Datapath } from '../agent/datapath/datapath.ts';
import { acceptOf, RELAY, type SideState } from '../agent/datapath/model.ts';
import { objectFile } from '../agent/datapath/object.ts';
import { remove } from './datapaths.ts';
import { ACK, FIN, frame, type Packet, RST, SYN } from './packets.ts';
import { DROP, LOOPBACK, REDIRECT, runProgram } from './programs.ts';
import { datapathUntestable } from './tools.ts';

const SIDE = 1;
/** So much the cell has acknowledged; it wraps around within a segment. */
const RECEIVED = 0xfffffffe;
const PEER_ACK = 0x80000001;
const ANSWER_HOPS = 255;

const untestable = await datapathUntestable();

const FAMILIES = [
  { family: 'IPv4', legacy: '10.77.5.2', old: '10.77.1.2', next: '10.77.2.2' },
  { family: 'IPv6', legacy: 'fd00:5::2', old: 'fd00:1::2', next: 'fd00:2::2' },
] as const;

describe.skipIf(untestable !== undefined)(`answers for a suspended cell ${untestable ?? ''}`, () => {
  let directory: string;
  let datapath: Datapath;

  beforeAll(async () => {
    directory = await mkdtemp(join(tmpdir(), 'osmosis-answers-'));
    datapath = await Datapath.open({ pinDir: join(directory, 'bpf'), objectFile: await objectFile() });
  });

  afterAll(async () => {
    await remove(datapath, join(directory, 'bpf'));
    await rm(directory, { recursive: true });
  });

  describe.each(FAMILIES)('over $family', ({ legacy, old, next }) => {
    const peer = { address: legacy, port: 52_000 };
    const virtual = { address: old, port: 7000 };
    const label = { address: next, port: 40_001 };
    const own = { address: old, port: 40_101 };
    const flow = {
      protocol: 'tcp',
      local: peer,
      remote: virtual,
      wireLocal: own,
      wireRemote: [{ endpoint: label, ifindex: LOOPBACK }, undefined],
      localSide: 0,
      remoteSide: SIDE,
      scope: RELAY,
      via: LOOPBACK + 1,
    } as const;
    const said = (more: Partial<Packet>): Packet => ({
      protocol: 'tcp',
      from: peer,
      to: virtual,
      seq: RECEIVED,
      ack: PEER_ACK,
      ...more,
    });
    const answer = frame({
      protocol: 'tcp',
      from: virtual,
      to: peer,
      seq: PEER_ACK,
      ack: RECEIVED,
      window: 0,
      payload: '',
      hops: ANSWER_HOPS,
      identification: 0,
    });

    beforeEach(async () => {
      await put('moved');
      await datapath.removeFlows([flow]);
      await datapath.putFlows([flow]);
    });

    afterAll(() => datapath.removeFlows([flow]));

    /** The cell has said so itself, before it was suspended. */
    async function acknowledge(ack: number): Promise<void> {
      const packet = { protocol: 'tcp', from: label, to: own, seq: 1, ack, payload: '' } as const;
      expect((await run(frame(packet))).verdict).toBe(REDIRECT);
    }

    test.each([
      ['data', {}],
      ['data of odd length', { payload: 'odd' }],
      ['a full segment', { payload: 'x'.repeat(1460) }],
      ['one byte beyond the window', { seq: RECEIVED, payload: '.' }],
      ['the end', { flags: FIN | ACK, payload: '' }],
      ['a probe', { seq: RECEIVED - 1, payload: '' }],
    ])('%s: the window is closed, and nothing new is acknowledged', async (_, more) => {
      await acknowledge(RECEIVED);
      await put('held');
      const before = await counted();
      const { verdict, output } = await run(frame(said(more)));
      expect(verdict).toBe(REDIRECT);
      expect(output.toString('hex')).toBe(answer.toString('hex'));
      expect(await counted()).toEqual({ held: before.held + 1, answered: before.answered + 1 });
    });

    test.each([
      ['an acknowledgement', { payload: '' }],
      ['one beyond what the cell has', { seq: (RECEIVED + 7) | 0, payload: '' }],
      ['a reset', { flags: RST | ACK, payload: '' }],
      ['a SYN', { flags: SYN, payload: '' }],
      ['the answer to a SYN', { flags: SYN | ACK, payload: '' }],
    ] as [string, Partial<Packet>][])('%s is not answered', async (_, { seq = RECEIVED, ...more }) => {
      await acknowledge(RECEIVED);
      await put('held');
      const before = await counted();
      expect((await run(frame(said({ ...more, seq: seq >>> 0 })))).verdict).toBe(DROP);
      expect(await counted()).toEqual({ held: before.held + 1, answered: before.answered });
    });

    test('nor is anything while nobody knows what the cell has received', async () => {
      await put('held');
      expect((await run(frame(said({})))).verdict).toBe(DROP);
    });

    test('an acknowledgement that was overtaken does not count', async () => {
      await acknowledge(RECEIVED);
      await acknowledge(RECEIVED - 10);
      await put('held');
      expect((await run(frame(said({})))).output.toString('hex')).toBe(answer.toString('hex'));
    });

    test('nobody answers for a cell that is only fenced', async () => {
      await acknowledge(RECEIVED);
      await put('fenced');
      expect((await run(frame(said({})))).verdict).toBe(DROP);
    });
  });

  async function put(state: SideState): Promise<void> {
    await datapath.putSide({ id: SIDE, state, active: 0, accept: acceptOf(0), ifindex: 0 });
  }

  async function run(input: Buffer) {
    return await runProgram(join(directory, 'bpf'), 'from_wire', input);
  }

  async function counted() {
    const { held = 0, answered = 0 } = (await datapath.counters()) ?? {};
    return { held, answered };
  }
});
