import { expect, test } from 'vitest';
import type { Sealed } from '../wire/h2o.ts';
import { isDrop, type Label } from '../wire/h2o-layout.ts';
import { createAck, open, type Session } from '../wire/h2o-session.ts';
import { createArming, sendArming } from './arming.ts';
import { FakeSocket } from './fake-socket.ts';

const PEER = '10.77.4.2';
const session: Session = {
  cell: new Uint8Array(16).fill(1),
  tag: new Uint8Array(8).fill(2),
  toPeer: new Uint8Array(32).fill(3),
  toCell: new Uint8Array(32).fill(4),
};
const labels = Array.from(
  { length: 10_000 },
  (_, index): Label => ({
    protocol: 'tcp',
    virtual: { address: '10.77.1.2', port: 20_000 + index },
    wire: { address: '10.77.2.2', port: 40_000 + index },
  }),
);

test('every part is sent until it is acknowledged, whatever is lost, the identical datagram each time', async () => {
  const socket = new FakeSocket();
  const arming = createArming(PEER, session, 9, labels);
  expect(arming.datagrams).toHaveLength(37);
  const said = new Map<number, string>();
  let number = 0;
  socket.onSend(({ message, datagram }) => {
    const part = open(session, message as Sealed);
    if (isDrop(part) || part.type !== 'arm') throw new Error('not an ARM');
    const text = Buffer.from(datagram).toString('hex');
    expect(said.get(part.part) ?? text).toBe(text);
    said.set(part.part, text);
    // Every third is lost.
    if (++number % 3 === 0) return;
    const ack = createAck(session, { type: 'ack', epoch: 9, acknowledged: 'arm', part: part.part });
    socket.receive(ack, { address: PEER, port: 18_018 });
  });
  expect(await sendArming(socket.asH2o(), arming, AbortSignal.timeout(10_000))).toBe(true);
  expect(said.size).toBe(37);
  expect(socket.listeners).toBe(0);
});

test('nobody answers, or to something else: it ends when it is told to', async () => {
  const socket = new FakeSocket();
  socket.onSend(() => {
    const ack = createAck(session, { type: 'ack', epoch: 8, acknowledged: 'arm', part: 0 });
    socket.receive(ack, { address: PEER, port: 18_018 });
  });
  const arming = createArming(PEER, session, 9, labels.slice(0, 1));
  expect(await sendArming(socket.asH2o(), arming, AbortSignal.timeout(200))).toBe(false);
  expect(socket.listeners).toBe(0);
});
