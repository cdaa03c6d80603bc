import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { onDistrust, sayDistrust } from './distrust.ts';
import { FakeSocket } from './fake-socket.ts';

const CELL = '00112233445566778899aabbccddeeff';
const MOVER = '10.77.1.2';
const PEER = '10.77.4.2';

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

it('is said three times, and understood by whoever listens', () => {
  const peer = new FakeSocket();
  const mover = new FakeSocket();
  const heard: string[] = [];
  const end = onDistrust(mover.asH2o(), (...said) => heard.push(said.join(' ')));
  sayDistrust(peer.asH2o(), CELL, MOVER);
  vi.runAllTimers();
  expect(peer.sent.map(({ address, message }) => ({ address, type: message.type }))).toEqual(
    Array(3).fill({ address: MOVER, type: 'welcome' }),
  );
  for (const { datagram } of peer.sent) mover.receive(datagram, { address: PEER, port: 18_018 });
  expect(heard).toEqual(Array(3).fill(`${CELL} ${PEER}`));
  end();
  expect(mover.listeners).toBe(0);
});
