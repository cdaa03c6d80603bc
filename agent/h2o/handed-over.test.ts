import { expect, test } from 'vitest';
import { temporaryDirectory } from '../test-support.ts';
import { decode, type Sealed } from '../wire/h2o.ts';
import { HOPS_AT, HOPS_MAX, isDrop } from '../wire/h2o-layout.ts';
import { consumeAck, createAck, createHold, open, type Session } from '../wire/h2o-session.ts';
import { FakeSocket } from './fake-socket.ts';
import { HandedOver } from './handed-over.ts';

const ASKER = { address: '10.77.1.2', port: 18_018 };
const NOW_AT = '10.77.3.2';
const DAY_MS = 24 * 3_600_000;
const session: Session = {
  cell: new Uint8Array(16).fill(7),
  tag: new Uint8Array(8).fill(8),
  toPeer: new Uint8Array(32).fill(9),
  toCell: new Uint8Array(32).fill(10),
};
const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex');
const NAME = { cell: hex(session.cell), tag: hex(session.tag) };
const HOLD = createHold(session, 5);
const NEXT_KEY = new Uint8Array(32).fill(11);
const MOVE_ACK = createAck(session, { type: 'ack', epoch: 5, acknowledged: 'move', nextPublicKey: NEXT_KEY });

function sealed(datagram: Uint8Array, hops = 0): Sealed {
  const decoded = decode(datagram.with(HOPS_AT, hops));
  if (isDrop(decoded) || !('tag' in decoded.message)) throw new Error('not sealed');
  return decoded.message;
}

function start(directory = temporaryDirectory()) {
  const socket = new FakeSocket();
  const handed = new HandedOver(socket.asH2o(), directory);
  handed.load();
  return { socket, handed, directory };
}

test('what is said to a cell that was handed over is passed on with one hop more, and so is the answer', () => {
  const { socket, handed } = start();
  handed.add({ ...NAME, to: NOW_AT });
  expect(handed.pass(sealed(HOLD), ASKER)).toBe(true);
  const [there] = socket.sent;
  expect(there).toMatchObject({ address: NOW_AT, port: 18_018 });
  expect(there?.datagram).toEqual(HOLD.with(HOPS_AT, 1));
  // Authentic for whoever has the keys, as if nobody had passed it on.
  expect(open(session, sealed(HOLD, 1))).toEqual({ type: 'hold', epoch: 5, udp: 'hold' });
  handed.answer(sealed(MOVE_ACK), { address: NOW_AT, port: 18_018 });
  expect(socket.sent[1]).toMatchObject({ ...ASKER, datagram: MOVE_ACK.with(HOPS_AT, 1) });
  expect(consumeAck(session, { type: 'move', epoch: 5 }, sealed(MOVE_ACK, 1))).toMatchObject({
    nextPublicKey: NEXT_KEY,
  });
});

test('nothing else is: of other cells or keys, after too many hops, answers of others or that nobody waits for', () => {
  const { socket, handed } = start();
  handed.add({ ...NAME, to: NOW_AT });
  const other = { ...session, tag: new Uint8Array(8).fill(1) };
  expect(handed.pass(sealed(createHold(other, 5)), ASKER)).toBe(false);
  expect(handed.pass(sealed(HOLD, HOPS_MAX), ASKER)).toBe(false);
  handed.answer(sealed(MOVE_ACK), { address: NOW_AT, port: 18_018 });
  handed.pass(sealed(HOLD), ASKER, 0);
  handed.answer(sealed(MOVE_ACK), { address: '10.77.9.9', port: 18_018 }, 0);
  handed.answer(sealed(MOVE_ACK), { address: NOW_AT, port: 18_018 }, 11_000);
  expect(socket.sent).toHaveLength(1);
});

test('no more than so many a second', () => {
  const { socket, handed } = start();
  handed.add({ ...NAME, to: NOW_AT });
  for (let n = 0; n < 2_000; n++) handed.pass(sealed(HOLD), ASKER);
  expect(socket.sent.length).toBeLessThan(1_000);
});

test('it outlives the agent, ends with the days, soon after the cell is back, and where its end comes back', () => {
  const { handed, directory } = start();
  handed.add({ ...NAME, to: NOW_AT }, 0);
  const passes = (at: HandedOver) => at.pass(sealed(HOLD), ASKER, 1);
  const next = start(directory).handed;
  expect(passes(next)).toBe(true);
  next.sweep(29 * DAY_MS);
  expect(passes(next)).toBe(true);
  next.answer(sealed(MOVE_ACK), { address: NOW_AT, port: 18_018 }, 2);
  next.sweep(29_000);
  expect(passes(next)).toBe(true);
  next.sweep(31_000);
  expect(passes(next)).toBe(false);
  next.add({ ...NAME, to: NOW_AT }, 0);
  next.sweep(31 * DAY_MS);
  expect(passes(next)).toBe(false);
  next.add({ ...NAME, to: NOW_AT }, 0);
  next.takeBack(NAME);
  expect(passes(next)).toBe(false);
  expect(passes(start(directory).handed)).toBe(false);
});
