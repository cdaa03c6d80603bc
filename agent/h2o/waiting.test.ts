import { expect, test } from 'vitest';
import type { Hello, Sealed } from '../wire/h2o.ts';
import { WaitingMessages } from './waiting.ts';

const FROM = { address: '10.0.0.1', port: 18_018 };
const cell = new Uint8Array(16);
const hello = (part: number, transaction = 1): Hello => ({
  type: 'hello',
  receipt: new Uint8Array(16),
  cell,
  transaction: new Uint8Array(8).fill(transaction),
  epoch: 0,
  publicKey: new Uint8Array(32),
  identity: new Uint8Array(32),
  signature: new Uint8Array(64),
  part,
  parts: 4,
  claims: [],
});
const sealed = (type: 'move' | 'bye'): Sealed =>
  ({ type, cell, tag: new Uint8Array(8), epoch: 1 }) as unknown as Sealed;

test('a MOVE goes first, everything else in its order', () => {
  const waiting = new WaitingMessages(9, 9);
  const messages = [hello(0), sealed('bye'), hello(1), sealed('move')] as const;
  for (const message of messages) expect(waiting.add(message, FROM)).toBe(true);
  expect(messages.map(() => waiting.take()?.message)).toEqual([
    messages[3],
    messages[0],
    messages[1],
    messages[2],
  ]);
  expect(waiting.take()).toBeUndefined();
});

test('a HELLO part waits once, until it is taken', () => {
  const waiting = new WaitingMessages(9, 9);
  expect(waiting.hasHello).toBe(false);
  expect([hello(0), hello(0), hello(1), hello(0, 2)].map((part) => waiting.add(part, FROM))).toEqual([
    true,
    false,
    true,
    true,
  ]);
  for (let taken = 0; taken < 3; taken++) {
    expect(waiting.hasHello).toBe(true);
    waiting.take();
  }
  expect(waiting.hasHello).toBe(false);
  expect(waiting.add(hello(0), FROM)).toBe(true);
});

test('no more wait than may', () => {
  const waiting = new WaitingMessages(2, 2);
  expect([hello(0), sealed('move'), hello(1)].map((each) => waiting.add(each, FROM))).toEqual([
    true,
    true,
    false,
  ]);
});

test('the sources take turns, and none has all the room', () => {
  const waiting = new WaitingMessages(8, 3);
  const flooder = { address: '10.0.0.9', port: 18_018 };
  const added = [0, 1, 2, 3].map((part) => waiting.add(hello(part), flooder));
  expect(added).toEqual([true, true, true, false]);
  for (const message of [hello(0), hello(1), sealed('move')]) expect(waiting.add(message, FROM)).toBe(true);
  const froms = Array.from({ length: 6 }, () => waiting.take()?.from.address);
  expect(froms).toEqual([FROM, flooder, FROM, flooder, FROM, flooder].map(({ address }) => address));
  expect(waiting.take()).toBeUndefined();
  expect(waiting.add(hello(3), flooder)).toBe(true);
});

test("a source's forged MOVEs go before HELLOs, but only in turn with another one's", () => {
  const waiting = new WaitingMessages(8, 3);
  const flooder = { address: '10.0.0.9', port: 18_018 };
  for (let count = 0; count < 3; count++) waiting.add(sealed('move'), flooder);
  waiting.add(sealed('move'), FROM);
  const froms = Array.from({ length: 4 }, () => waiting.take()?.from.address);
  expect(froms).toEqual([flooder, FROM, flooder, flooder].map(({ address }) => address));
});
