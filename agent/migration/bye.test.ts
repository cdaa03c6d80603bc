import { mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { PeerKeys } from '../cell/registry.ts';
import { FakeSocket } from '../h2o/fake-socket.ts';
import { isDrop } from '../wire/h2o-layout.ts';
import { createAck, deriveSession, generateKeyPair } from '../wire/h2o-session.ts';
import { Byes } from './bye.ts';

const PEER = '10.77.4.2';
const CELL = 'c0'.repeat(16);
const FROM_PEER = { address: PEER, port: 18_018 };

let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'osmosis-byes-'));
});
afterEach(() => rmSync(directory, { recursive: true }));

function newPair() {
  const peer = generateKeyPair();
  const own = generateKeyPair();
  const keys: PeerKeys = { address: PEER, epoch: 0, last: 0, ...own, peerPublicKey: peer.publicKey };
  const cell = new Uint8Array(Buffer.from(CELL, 'hex'));
  const { secretKey } = peer;
  const pair = { cell, epoch: 0, cellPublicKey: own.publicKey, peerPublicKey: peer.publicKey };
  const session = deriveSession({ ...pair, secretKey, role: 'peer' });
  if (isDrop(session)) throw new Error(session.drop);
  const ack = createAck(session, { type: 'ack', epoch: 1, acknowledged: 'bye' });
  return { keys, session, ack };
}

test('nothing is announced anew until the last BYE is acknowledged, or the peer has another key', async () => {
  const socket = new FakeSocket();
  const byes = new Byes(socket.asH2o(), directory);
  const { keys, ack } = newPair();
  expect(await byes.isOver(CELL, keys, AbortSignal.timeout(5_000))).toBe(true);
  const said = byes.say(CELL, [keys], () => undefined);
  await expect(byes.isOver(CELL, keys, AbortSignal.timeout(50))).rejects.toThrow();
  const again = { ...keys, peerPublicKey: generateKeyPair().publicKey };
  expect(await byes.isOver(CELL, again, AbortSignal.timeout(5_000))).toBe(true);
  const same = { ...keys, peerPublicKey: keys.peerPublicKey?.slice() };
  const waiting = byes.isOver(CELL, same, AbortSignal.timeout(5_000));
  socket.receive(ack, FROM_PEER);
  expect(await waiting).toBe(true);
  await said;
});

test('an agent that comes back says it on, the identical datagram, until it is acknowledged', async () => {
  const before = new FakeSocket();
  const { keys, ack } = newPair();
  let saved = 0;
  await new Byes(before.asH2o(), directory).say(CELL, [keys], () => {
    saved = keys.last;
  });
  expect(saved).toBe(1);
  const socket = new FakeSocket();
  const byes = new Byes(socket.asH2o(), directory);
  byes.recover();
  expect(socket.sent[0]?.address).toBe(PEER);
  expect(
    Buffer.compare(socket.sent[0]?.datagram ?? Buffer.of(), before.sent[0]?.datagram ?? Buffer.of()),
  ).toBe(0);
  const over = byes.isOver(CELL, keys, AbortSignal.timeout(5_000));
  socket.receive(ack, FROM_PEER);
  expect(await over).toBe(true);
  expect(readdirSync(directory)).toEqual([]);
  const third = new FakeSocket();
  new Byes(third.asH2o(), directory).recover();
  expect(third.sent).toEqual([]);
});

test('with the session alone: who has not answered is named, and what is over by its time is dropped', async () => {
  const socket = new FakeSocket();
  const { session } = newPair();
  const byes = new Byes(socket.asH2o(), directory);
  const farewell = { peer: PEER, session, epoch: 7, reason: 'ended' } as const;
  expect(await byes.sayUnder(CELL, [farewell], 30, 60)).toEqual([PEER]);
  expect(readdirSync(directory)).toHaveLength(1);
  await expect.poll(() => readdirSync(directory)).toEqual([]);
});

test('where nothing can be written down it is said all the same', async () => {
  const socket = new FakeSocket();
  const { session } = newPair();
  const byes = new Byes(socket.asH2o(), directory);
  rmSync(directory, { recursive: true });
  const farewell = { peer: PEER, session, epoch: 7, reason: 'ended' } as const;
  expect(await byes.sayUnder(CELL, [farewell], 10, 50)).toEqual([PEER]);
  expect(socket.sent[0]?.address).toBe(PEER);
  mkdirSync(directory);
});
