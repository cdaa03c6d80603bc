/** The cell side against a scripted peer at a socket of the same shape as H2oSocket. */
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, test, vi } from 'vitest';
import { flowKey } from '../address.ts';
import { flowWith, trustOf } from '../test-support.ts';
import { equalBytes } from '../wire/bytes.ts';
import { encodeWelcome, type Hello, newCellId, newTransaction } from '../wire/h2o.ts';
import { claimedFlows } from '../wire/h2o-claims.ts';
import { identityOf, newIdentitySeed, parseFingerprint } from '../wire/h2o-identity.ts';
import { isDrop } from '../wire/h2o-layout.ts';
import { createAck, createHold, deriveSession, generateKeyPair } from '../wire/h2o-session.ts';
import { claimsOf, exchangeHello, HELLO_TRIES_MAX, sayHello, sendUntilAcknowledged } from './cell-side.ts';
import { FakeSocket, withoutReceipt } from './fake-socket.ts';
import { WELCOMES_CHECKED_MAX } from './welcome-reading.ts';

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

const trustOfNobody = () => identityOf(newIdentitySeed()).publicKey;
const voiceOf = (socket: FakeSocket, trust = trustOf()) => ({ socket: socket.asH2o(), trust });

/** Answers HELLO parts for which `isTaken` with `key`, claimable where the port is even. */
function answering(
  socket: FakeSocket,
  {
    key = generateKeyPair().publicKey,
    trust = trustOf(),
    isTaken = (_hello: Hello): boolean => true,
    change = {},
  } = {},
) {
  socket.onSend(({ message, address, port }) => {
    if (message.type !== 'hello' || !isTaken(message)) return;
    const { cell, transaction, epoch, part, parts, claims } = message;
    const claimable = claimedFlows(claims).map(({ remote }) => remote.port % 2 === 0);
    const welcome = {
      ...trust.answer(message, { publicKey: key }),
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
  const result = await exchangeHello(voiceOf(socket), PEER, hello, live);
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
  const result = await exchangeHello(voiceOf(socket), PEER, helloWith(1_500).hello, live);
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
  const result = await exchangeHello(voiceOf(socket), PEER, helloWith(2).hello, live);
  expect(result).toMatchObject({ silent: true, peerPublicKey: undefined, claimable: new Set() });
  expect(socket.sent.length).toBe(HELLO_TRIES_MAX);
  expect(socket.listeners).toBe(0);
});

test('a second key in one transaction is not believed', async () => {
  const socket = new FakeSocket();
  const first = answering(socket, { isTaken: ({ part }) => part === 0 });
  answering(socket, { isTaken: ({ part }) => part > 0 });
  const result = await exchangeHello(voiceOf(socket), PEER, helloWith(600).hello, live);
  expect(result).toMatchObject({ silent: true, peerPublicKey: first });
});

test('a HELLO ends with its signal', async () => {
  const socket = new FakeSocket();
  const signal = AbortSignal.timeout(20);
  await expect(exchangeHello(voiceOf(socket), PEER, helloWith(1).hello, signal)).rejects.toThrow();
  expect(socket.listeners).toBe(0);
});

describe('receipts', () => {
  const RECEIPT = new Uint8Array(16).fill(5);
  /** Answers HELLOs that show `wanted()` and hands it out to the others. */
  function demanding(socket: FakeSocket, wanted: () => Uint8Array) {
    answering(socket, { isTaken: ({ receipt }) => equalBytes(receipt, wanted()) });
    socket.onSend(({ message, address, port }) => {
      if (message.type !== 'hello' || equalBytes(message.receipt, wanted())) return;
      const claimable = claimedFlows(message.claims).map(() => false);
      const none = {
        identity: new Uint8Array(32),
        signature: new Uint8Array(64),
        publicKey: new Uint8Array(32),
      };
      const said = { ...message, ...none, type: 'welcome', claimable, receipt: wanted() } as const;
      socket.receive(encodeWelcome(said), { address, port });
    });
  }
  const shownIn = (socket: FakeSocket) =>
    socket.sent.map(({ message }) => (message.type === 'hello' ? message.receipt[0] : undefined));

  test('it is asked for with one part, shown in all, and in the next HELLO from there at once', async () => {
    const socket = new FakeSocket();
    demanding(socket, () => RECEIPT);
    const receipts = {};
    const ask = (source?: string) =>
      exchangeHello(voiceOf(socket), PEER, { ...helloWith(1_100).hello, receipts }, live, undefined, source);
    expect(await ask()).toMatchObject({ silent: false });
    const [first, ...others] = shownIn(socket);
    expect([first, new Set(others)]).toEqual([0, new Set([5])]);
    expect(others.length).toBeGreaterThan(1);
    socket.sent.length = 0;
    await ask();
    expect(shownIn(socket)).toEqual(others);
    socket.sent.length = 0;
    await ask('10.77.1.9');
    expect(shownIn(socket)).toEqual([0, ...others]);
  });

  test('one that has run out is replaced by another', async () => {
    const socket = new FakeSocket();
    demanding(socket, () => RECEIPT);
    const receipts = { '': new Uint8Array(16).fill(4) };
    const result = await exchangeHello(voiceOf(socket), PEER, { ...helloWith(1).hello, receipts }, live);
    expect(result).toMatchObject({ silent: false });
    expect(shownIn(socket)).toEqual([4, 5]);
    expect(receipts['']).toEqual(RECEIPT);
  });

  test('whoever sends another one each time is not heard for ever', async () => {
    const socket = new FakeSocket();
    let each = 0;
    demanding(socket, () => new Uint8Array(16).fill((each++ % 200) + 1));
    const result = await exchangeHello(voiceOf(socket), PEER, helloWith(1).hello, live, {
      triesMax: 2,
      retryMsMax: 10,
    });
    expect(result.silent).toBe(true);
    expect(socket.sent.length).toBeLessThan(15);
    expect(socket.listeners).toBe(0);
  });
});

describe('identities', () => {
  const hello = () => helloWith(600).hello;

  test('the first that answers at an address is known there; another is refused, loudly', async () => {
    const [socket, own, peer] = [new FakeSocket(), trustOf(), trustOf()];
    answering(socket, { trust: peer });
    await exchangeHello(voiceOf(socket, own), PEER, hello(), live);
    const { fingerprint } = peer;
    expect(own.known.all()).toMatchObject([{ address: PEER, fingerprint, how: 'first-use' }]);

    const [second, stranger] = [new FakeSocket(), trustOf()];
    answering(second, { trust: stranger });
    const refused = exchangeHello(voiceOf(second, own), PEER, hello(), live);
    await expect(refused).rejects.toMatchObject({ code: 'PEER_UNTRUSTED' });
    for (const named of [
      PEER,
      fingerprint,
      stranger.fingerprint,
      'osmosis trust revoke',
      'osmosis trust pin',
    ])
      await expect(refused).rejects.toThrow(named);
    expect(own.known.refused()).toMatchObject([{ address: PEER, why: 'mismatch' }]);
    expect(second.listeners).toBe(0);
  });

  test('one signature is made and one checked, whatever the number of parts', async () => {
    const [socket, own] = [new FakeSocket(), trustOf()];
    const isGenuine = vi.spyOn(own, 'isGenuine');
    answering(socket);
    const result = await exchangeHello(voiceOf(socket, own), PEER, helloWith(3_000).hello, live);
    expect(result.silent).toBe(false);
    expect(isGenuine).toHaveBeenCalledTimes(1);
    const signatures = socket.sent.flatMap(({ message }) =>
      message.type === 'hello' ? Buffer.from(message.signature).toString('hex') : [],
    );
    expect(signatures.length).toBeGreaterThan(5);
    expect(new Set(signatures).size).toBe(1);
  });

  test.each([
    ['another signature', { signature: new Uint8Array(64).fill(1) }],
    ['another identity', { identity: trustOfNobody() }],
    ['another key', { publicKey: generateKeyPair().publicKey }],
  ])('a WELCOME with %s than it was made with answers nothing', async (_what, change) => {
    const [socket, own] = [new FakeSocket(), trustOf()];
    answering(socket, { change });
    const result = await exchangeHello(voiceOf(socket, own), PEER, helloWith(2).hello, live);
    expect(result).toMatchObject({ silent: true, peerPublicKey: undefined });
    expect(new Set(socket.drops)).toEqual(new Set(['unsigned']));
    expect(own.known.all()).toEqual([]);
  });

  test('a WELCOME to another HELLO answers nothing: an older one can not be used again', async () => {
    const [socket, own, peer] = [new FakeSocket(), trustOf(), trustOf()];
    const old = helloWith(2).hello;
    const offer = {
      ...old,
      identity: own.offer(old).identity,
      signature: new Uint8Array(64),
      receipt: new Uint8Array(16),
    };
    const key = generateKeyPair().publicKey;
    const older = peer.answer({ ...offer, type: 'hello', part: 0, parts: 1 }, { publicKey: key });
    answering(socket, { key, change: older });
    const result = await exchangeHello(voiceOf(socket, own), PEER, helloWith(2).hello, live);
    expect(result).toMatchObject({ silent: true, peerPublicKey: undefined });
  });

  test.each([
    ['another identity', 'the peer 10.77.4.2 refuses this host: this host'],
    ['none', 'trusts pinned identities only'],
    ['ours', 'has been revoked there'],
  ])('a peer that does not trust us and knows %s is no silent one', async (who, text) => {
    const [socket, own, peer] = [new FakeSocket(), trustOf(), trustOf()];
    const knows = { 'another identity': trustOf().fingerprint, none: '', ours: own.fingerprint }[who] ?? '';
    const untrusted = { known: parseFingerprint(knows) ?? new Uint8Array(32) };
    socket.onSend(({ message, address, port }) => {
      if (message.type !== 'hello') return;
      const publicKey = new Uint8Array(32);
      const claimable = claimedFlows(message.claims).map(() => false);
      const signed = peer.answer(message, { publicKey, untrusted });
      const said = {
        ...withoutReceipt(message),
        type: 'welcome',
        publicKey,
        claimable,
        untrusted,
        ...signed,
      } as const;
      socket.receive(encodeWelcome(said), { address, port });
    });
    const refused = exchangeHello(voiceOf(socket, own), PEER, hello(), live);
    await expect(refused).rejects.toMatchObject({ code: 'PEER_UNTRUSTED' });
    await expect(refused).rejects.toThrow(text);
    await expect(refused).rejects.toThrow(own.fingerprint);
    expect(own.known.all()).toEqual([]);
  });

  test('who sends WELCOMEs that are not genuine makes us check so many, and no more', async () => {
    const [socket, own] = [new FakeSocket(), trustOf()];
    const isGenuine = vi.spyOn(own, 'isGenuine');
    answering(socket, { change: { signature: new Uint8Array(64).fill(1) } });
    socket.onSend(({ message }) => {
      for (let more = 0; more < 100; more++) {
        if (message.type !== 'hello') return;
        const claimable = claimedFlows(message.claims).map(() => true);
        const forged = { ...withoutReceipt(message), type: 'welcome', claimable } as const;
        socket.receive(encodeWelcome(forged), { address: PEER, port: 1 });
      }
    });
    const result = await exchangeHello(voiceOf(socket, own), PEER, helloWith(2).hello, live);
    expect(result.silent).toBe(true);
    expect(isGenuine.mock.calls.length).toBe(WELCOMES_CHECKED_MAX);
  });
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
  const asked = await sayHello(voiceOf(socket), PEER, about, flows, [], live);
  const hellos = socket.sent.map(({ message, source }) => ({ message, source }));
  expect(hellos.map(({ source }) => source)).toEqual(['10.77.1.9', undefined]);
  expect(hellos.at(-1)?.message).toMatchObject({ transaction: asked.transaction });
  expect(asked).toMatchObject({ silent: false });
  expect(asked.claimable).toEqual(new Set([51_000, 51_002, 51_004].map((port) => flowKey(flowWith(port)))));
});
