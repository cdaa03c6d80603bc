/** The cell side against a scripted peer at a socket of the same shape as H2oSocket. */
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { flowKey } from '../address.ts';
import { flowWith } from '../test-support.ts';
import { encodeWelcome, type Hello, newCellId, newTransaction } from '../wire/h2o.ts';
import { claimedFlows } from '../wire/h2o-claims.ts';
import { isDrop } from '../wire/h2o-layout.ts';
import { createAck, createHold, deriveSession, generateKeyPair } from '../wire/h2o-session.ts';
import { claimsOf, exchangeHello, HELLO_TRIES_MAX, sayHello, sendUntilAcknowledged } from './cell-side.ts';
import { FakeSocket } from './fake-socket.ts';

const PEER = '10.77.4.2';
const live = new AbortController().signal;
const label = (port: number) => ({
  protocol: 'tcp' as const,
  virtual: { address: '10.77.1.2', port },
  wire: { address: '10.77.2.2', port: 40_000 },
});

test('flows of one endpoint with one peer are one claim, armed where there is a label', () => {
  const other = { ...flowWith(52_000), local: { address: '10.77.1.2', port: 7001 } };
  const flows = [flowWith(51_000), other, flowWith(51_001), flowWith(51_002, '10.77.5.2')];
  const claim = { protocol: 'tcp', local: { address: '10.77.1.2', port: 7000 } };
  expect(claimsOf(flows, [label(7001)])).toEqual([
    { ...claim, peerAddress: PEER, peerPorts: [51_000, 51_001] },
    { ...claim, local: other.local, peerAddress: PEER, peerPorts: [52_000], arm: label(7001).wire },
    { ...claim, peerAddress: '10.77.5.2', peerPorts: [51_002] },
  ]);
  expect(claimsOf([], [label(7000)])).toEqual([]);
});

function helloWith(ports: number) {
  const flows = Array.from({ length: ports }, (_, index) => flowWith(10_000 + index));
  const { publicKey } = generateKeyPair();
  const claims = claimsOf(flows, []);
  return { flows, hello: { cell: newCellId(), transaction: newTransaction(), epoch: 0, publicKey, claims } };
}

/** Answers HELLO parts for which `isTaken` with `key`, claimable where the port is even. */
function answering(
  socket: FakeSocket,
  { key = generateKeyPair().publicKey, isTaken = (_hello: Hello): boolean => true, change = {} } = {},
) {
  socket.onSend(({ message, address, port }) => {
    if (message.type !== 'hello' || !isTaken(message)) return;
    const { cell, transaction, epoch, part, parts, claims } = message;
    const claimable = claimedFlows(claims).map(({ remote }) => remote.port % 2 === 0);
    const welcome = {
      type: 'welcome',
      cell,
      transaction,
      epoch,
      part,
      parts,
      claimable,
      publicKey: key,
    } as const;
    socket.receive(encodeWelcome({ ...welcome, ...change }), { address, port });
  });
  return key;
}

test('every part is answered: no try is repeated, and the claimable flows are known', async () => {
  const socket = new FakeSocket();
  const key = answering(socket);
  const { flows, hello } = helloWith(1_500);
  const result = await exchangeHello(socket.asH2o(), PEER, hello, live);
  expect(result.silent).toBe(false);
  expect(result.peerPublicKey).toEqual(key);
  expect(result.claimable).toEqual(new Set(flows.filter(({ remote }) => remote.port % 2 === 0).map(flowKey)));
  const parts = socket.sent.map(({ message }) => message.type === 'hello' && message.part);
  expect(parts.length).toBeGreaterThan(2);
  expect(new Set(parts).size).toBe(parts.length);
});

test('only the part that was lost is sent again', async () => {
  const socket = new FakeSocket();
  let lost = 2;
  answering(socket, { isTaken: ({ part }) => part !== 1 || lost-- <= 0 });
  const result = await exchangeHello(socket.asH2o(), PEER, helloWith(1_500).hello, live);
  expect(result.silent).toBe(false);
  expect(socket.sent.filter(({ message }) => message.type === 'hello' && message.part === 1).length).toBe(3);
  expect(socket.sent.filter(({ message }) => message.type === 'hello' && message.part === 0).length).toBe(1);
});

test.each([
  ['nobody', undefined],
  ['another transaction', { transaction: new Uint8Array(8) }],
  ['another cell', { cell: new Uint8Array(16) }],
  ['a part that was never sent', { part: 1, parts: 2 }],
])('answered by %s, the peer is silent after its tries', async (_what, change) => {
  const socket = new FakeSocket();
  if (change !== undefined) answering(socket, { change });
  const result = await exchangeHello(socket.asH2o(), PEER, helloWith(2).hello, live);
  expect(result).toMatchObject({ silent: true, peerPublicKey: undefined, claimable: new Set() });
  expect(socket.sent.length).toBe(HELLO_TRIES_MAX);
  expect(socket.listeners).toBe(0);
});

test('a second key in one transaction is not believed', async () => {
  const socket = new FakeSocket();
  const first = answering(socket, { isTaken: ({ part }) => part === 0 });
  answering(socket, { isTaken: ({ part }) => part > 0 });
  const result = await exchangeHello(socket.asH2o(), PEER, helloWith(600).hello, live);
  expect(result).toMatchObject({ silent: true, peerPublicKey: first });
});

test('a HELLO ends with its signal', async () => {
  const socket = new FakeSocket();
  const signal = AbortSignal.timeout(20);
  await expect(exchangeHello(socket.asH2o(), PEER, helloWith(1).hello, signal)).rejects.toThrow();
  expect(socket.listeners).toBe(0);
});

function session() {
  const [cellKeys, peerKeys] = [generateKeyPair(), generateKeyPair()];
  const derived = deriveSession({
    cell: newCellId(),
    epoch: 0,
    cellPublicKey: cellKeys.publicKey,
    peerPublicKey: peerKeys.publicKey,
    secretKey: cellKeys.secretKey,
    role: 'cell',
  });
  if (isDrop(derived)) throw new Error(derived.drop);
  return derived;
}

const sent = { type: 'hold', epoch: 4 } as const;

test('the identical datagram is sent until its own ACK comes', async () => {
  const socket = new FakeSocket();
  const [own, other] = [session(), session()];
  const datagram = createHold(own, 4);
  const ack = (from: typeof own, epoch: number) =>
    socket.receive(createAck(from, { type: 'ack', epoch, acknowledged: 'hold' }), { address: PEER, port: 1 });
  socket.onSend(() => {
    ack(other, 4);
    ack(own, 3);
    if (socket.sent.length === 3) ack(own, 4);
  });
  const answer = await sendUntilAcknowledged(socket.asH2o(), PEER, { session: own, sent, datagram }, live);
  expect(answer).toMatchObject({ type: 'ack', epoch: 4, acknowledged: 'hold' });
  expect(socket.sent.length).toBe(3);
  for (const each of socket.sent) expect(each).toMatchObject({ datagram, address: PEER });
  expect(socket.listeners).toBe(0);
});

test('the waits between two sendings grow', async () => {
  const socket = new FakeSocket();
  const own = session();
  const abort = new AbortController();
  const waiting = sendUntilAcknowledged(
    socket.asH2o(),
    PEER,
    { session: own, sent, datagram: createHold(own, 4) },
    abort.signal,
  );
  await sleep(400);
  abort.abort();
  expect(await waiting).toBeUndefined();
  // At 0, 20, 60, 140 and 300 ms.
  expect(socket.sent.length).toBeGreaterThan(1);
  expect(socket.sent.length).toBeLessThan(6);
  expect(socket.listeners).toBe(0);
});

test('flows of several addresses are claimed from each of them; the transaction of the most is the one', async () => {
  const socket = new FakeSocket();
  answering(socket);
  const flow = (port: number, source?: string) => ({
    ...flowWith(port),
    at: { address: PEER, port },
    ...(source === undefined ? {} : { source }),
  });
  const flows = [flow(51_000), flow(51_002, '10.77.1.9'), flow(51_004), flow(51_005)];
  const about = { cell: newCellId(), epoch: 0, publicKey: generateKeyPair().publicKey };
  const asked = await sayHello(socket.asH2o(), PEER, about, flows, [], live);
  const hellos = socket.sent.map(({ message, source }) => ({ message, source }));
  expect(hellos.map(({ source }) => source)).toEqual(['10.77.1.9', undefined]);
  expect(hellos.at(-1)?.message).toMatchObject({ transaction: asked.transaction });
  expect(asked).toMatchObject({ silent: false });
  expect(asked.claimable).toEqual(new Set([51_000, 51_002, 51_004].map((port) => flowKey(flowWith(port)))));
});
