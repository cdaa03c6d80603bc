import { setTimeout as sleep } from 'node:timers/promises';
import { expect, onTestFinished, test, vi } from 'vitest';
import { FakeSocket, type Sent } from '../h2o/fake-socket.ts';
import { eventually } from '../test-support.ts';
import { newCellId } from '../wire/h2o.ts';
import type { FollowBody } from '../wire/h2o-follow.ts';
import { consumeFromCell, type FirstPair, firstState, type PeerState } from '../wire/h2o-peer.ts';
import { generateKeyPair } from '../wire/h2o-session.ts';
import { type FollowContent, FollowTalk } from './follow-talk.ts';

const PEER = '10.77.4.2';
const label = {
  protocol: 'tcp' as const,
  virtual: { address: '10.77.1.2', port: 7000 },
  peer: PEER,
  wire: { address: '10.77.2.2', port: 40_000 },
};
const during = (leaseSeconds: number): FollowContent => ({ leaseSeconds, labels: [label] });

/** A talk, and a peer that answers as the real one does, as long as it is not `deaf`. */
function scene() {
  const socket = new FakeSocket();
  const [ours, theirs, id] = [generateKeyPair(), generateKeyPair(), newCellId()];
  const cell = Buffer.from(id).toString('hex');
  const keys = { address: PEER, epoch: 1, last: 1, ...ours, peerPublicKey: theirs.publicKey };
  const pair: FirstPair = { ...theirs, cellPublicKey: ours.publicKey };
  let state: PeerState = firstState(cell, pair);
  const heard: FollowBody[] = [];
  const stale: Sent[] = [];
  const now = { content: during(60) as FollowContent | undefined, deaf: false };
  socket.onSend((sent) => {
    if (now.deaf || sent.message.type !== 'follow') return;
    const consumed = consumeFromCell(state, sent.message, generateKeyPair);
    if (consumed.outcome === 'dropped') return void stale.push(sent);
    if (consumed.outcome === 'accepted') {
      state = consumed.state;
      if (consumed.message.type === 'follow') heard.push(consumed.message);
    }
    socket.receive(consumed.ack, { address: PEER, port: 18_018 });
  });
  const warn = vi.fn();
  const takeKeys = () => {
    keys.last++;
    return keys;
  };
  const talk = new FollowTalk(cell, { socket: socket.asH2o(), content: () => now.content, takeKeys, warn });
  onTestFinished(() => talk.stop());
  return { talk, now, heard, stale, socket, keys, warn };
}

test('says the lease and the rows, and knows until when the peer follows', async () => {
  const { talk, heard } = scene();
  expect(talk.until).toBeUndefined();
  expect(await talk.say()).toBe(true);
  expect(heard).toMatchObject([{ leaseSeconds: 60, ended: [] }]);
  expect((talk.until ?? 0) - Date.now()).toBeGreaterThan(50_000);
});

test('what is other than what is under way takes its place, and answers for both', async () => {
  const { talk, now, heard, stale } = scene();
  now.deaf = true;
  const first = talk.say();
  await sleep(5);
  now.content = { leaseSeconds: 0, labels: [] };
  now.deaf = false;
  const second = talk.say();
  expect(await Promise.all([first, second])).toEqual([true, true]);
  expect(heard.at(-1)).toMatchObject({ leaseSeconds: 0 });
  expect(talk.until).toBeUndefined();
  expect(stale).toEqual([]);
});

test('the same again waits for the answer to what is under way', async () => {
  const { talk, heard, keys } = scene();
  const both = [talk.say(), talk.say()];
  expect(await Promise.all(both)).toEqual([true, true]);
  expect([heard.length, keys.last]).toEqual([2, 3]);
});

test('ports that have ended are said until they are acknowledged, all of them and once', async () => {
  const { talk, now, heard } = scene();
  now.deaf = true;
  const ended = Array.from({ length: 600 }, (_, index) => ({
    protocol: 'tcp' as const,
    port: 52_000 + index,
  }));
  talk.over(ended.slice(0, 1));
  expect(talk.isWaiting).toBe(true);
  void talk.say();
  talk.over(ended.slice(1));
  await sleep(5);
  now.deaf = false;
  await eventually(() => expect(heard.flatMap((body) => body.ended)).toEqual(ended));
  expect(talk.isWaiting).toBe(false);
});

test('nothing is said while nothing may be', async () => {
  const { talk, now, socket, keys } = scene();
  now.content = undefined;
  talk.over([{ protocol: 'tcp', port: 52_000 }]);
  expect(await talk.say()).toBe(false);
  expect([socket.sent.length, keys.last, talk.isWaiting]).toEqual([0, 1, true]);
});

test('a talk that is stopped ends', async () => {
  const { talk, now } = scene();
  now.deaf = true;
  const said = talk.say();
  await sleep(5);
  talk.stop();
  expect(await said).toBe(false);
});
