import { expect, test } from 'vitest';
import { decode, type Hello, newCellId, newTransaction, type Sealed, splitHello } from './h2o.ts';
import { isDrop, type Label } from './h2o-layout.ts';
import {
  arm,
  type Consumed,
  consumeFromCell,
  PAIRS_PER_CELL_MAX,
  type PeerState,
  pairFor,
  stateFor,
} from './h2o-peer.ts';
import {
  consumeAck,
  createArm,
  createBye,
  createHold,
  createMove,
  deriveSession,
  generateKeyPair,
  type KeyPair,
  type Session,
  sessionTag,
  sharedSecretCount,
} from './h2o-session.ts';

const claims = (wire: string, count = 1) =>
  Array.from({ length: count }, (_, index) => ({
    protocol: 'tcp' as const,
    local: { address: '10.77.1.2', port: 7000 + index },
    peerAddress: '10.77.4.2',
    peerPorts: [51_000],
    arm: { address: wire, port: 40_001 + index },
  }));
const labels = (wire: string, count = 1): Label[] =>
  claims(wire, count).map(({ protocol, local, arm: at }) => ({ protocol, virtual: local, wire: at }));

type Prepared = { keys: KeyPair; transaction: Uint8Array; state: PeerState; session: Session };

function hellos(keys: KeyPair, cell: Uint8Array, epoch: number, wire: string, count = 1): Hello[] {
  const { publicKey } = keys;
  const unsigned = {
    identity: new Uint8Array(32),
    signature: new Uint8Array(64),
    receipt: new Uint8Array(16),
  };
  const offer = { cell, epoch, publicKey, transaction: newTransaction(), ...unsigned };
  return splitHello({ ...offer, claims: claims(wire, count) });
}

/** HELLO and WELCOME of `parts`, and the session as the source computes it. */
function prepare(keys: KeyPair, parts: readonly Hello[], known: readonly PeerState[] = []): Prepared {
  let state: PeerState | undefined;
  for (const hello of parts) {
    const found = pairFor(hello, state === undefined ? known : [state]);
    if (found === undefined) throw new Error('refused');
    state = arm(found, hello);
  }
  const [first] = parts;
  if (state === undefined || first === undefined) throw new Error('no part');
  const session = deriveSession({ ...state.pair, secretKey: keys.secretKey, role: 'cell' });
  if (isDrop(session)) throw new Error(session.drop);
  return { keys, transaction: first.transaction, state, session };
}

function first(wire = '10.77.2.2', count = 1): Prepared {
  const keys = generateKeyPair();
  return prepare(keys, hellos(keys, newCellId(), 0, wire, count));
}

function sealedOf(datagram: Uint8Array): Sealed {
  const decoded = decode(datagram);
  if ('drop' in decoded || !('tag' in decoded.message)) throw new Error('not a sealed message');
  return decoded.message;
}

const consume = (state: PeerState, datagram: Uint8Array) => consumeFromCell(state, sealedOf(datagram));

function accepted(consumed: Consumed): Extract<Consumed, { outcome: 'accepted' }> {
  if (consumed.outcome !== 'accepted') throw new Error(JSON.stringify(consumed));
  return consumed;
}

function moveOf(
  { session, transaction }: Prepared,
  epoch: number,
  wire = '10.77.2.2',
  next = generateKeyPair(),
) {
  const move = { epoch, transaction, nextPublicKey: next.publicKey, labels: labels(wire) };
  return { datagram: createMove(session, move), next };
}

test('nothing is computed before a sealed message arrives, one secret then', () => {
  const keys = generateKeyPair();
  const [hello] = hellos(keys, newCellId(), 0, '10.77.2.2');
  if (hello === undefined) throw new Error('no part');
  const before = sharedSecretCount();
  const pair = pairFor(hello, []);
  if (pair === undefined) throw new Error('refused');
  const state = arm(pair, hello);
  expect(sharedSecretCount()).toBe(before);
  const session = deriveSession({ ...state.pair, secretKey: keys.secretKey, role: 'cell' });
  if (isDrop(session)) throw new Error(session.drop);
  const held = accepted(consume(state, createHold(session, 1)));
  accepted(consume(held.state, createHold(session, 2)));
  expect(sharedSecretCount()).toBe(before + 2);
});

test('a MOVE flips, is acknowledged the same way again, and makes the next pair', () => {
  const prepared = first();
  const { datagram, next } = moveOf(prepared, 1);
  const moved = accepted(consume(prepared.state, datagram));
  expect(moved.message).toMatchObject({ type: 'move', epoch: 1, labels: labels('10.77.2.2') });
  const ack = consumeAck(prepared.session, { type: 'move', epoch: 1 }, sealedOf(moved.ack));
  expect(ack).toMatchObject({ nextPublicKey: moved.state.pair.peerPublicKey });
  expect(moved.state.pair).toMatchObject({ epoch: 1, cellPublicKey: next.publicKey });
  expect(stateFor(sealedOf(datagram), [moved.state])).toBe(moved.state);
  expect(consume(moved.state, datagram)).toEqual({
    outcome: 'duplicate',
    state: moved.state,
    ack: moved.ack,
  });
});

test('an ACK is never longer than what it acknowledges', () => {
  const prepared = first();
  const { datagram } = moveOf(prepared, 9);
  const hold = createHold(prepared.session, 1);
  const bye = createBye(prepared.session, { epoch: 1, reason: 'aborted' });
  for (const each of [datagram, hold, bye]) {
    expect(accepted(consume(prepared.state, each)).ack.length).toBeLessThanOrEqual(each.length);
  }
});

test("after a move the old host's keys are worthless, even with everything it ever saw", () => {
  const prepared = first();
  const { datagram } = moveOf(prepared, 1);
  const moved = accepted(consume(prepared.state, datagram));
  const before = sharedSecretCount();
  const forgeries = [
    moveOf(prepared, 2, '10.77.9.9').datagram,
    createHold(prepared.session, 2),
    createBye(prepared.session, { epoch: 2, reason: 'ended' }),
    // The same tag as the new session, but sealed under the old keys.
    createHold({ ...prepared.session, tag: sessionTag(moved.state.pair) }, 2),
  ];
  const outcomes = forgeries.map((each) => consume(moved.state, each));
  expect(outcomes.map((each) => each.outcome === 'dropped' && each.reason)).toEqual([
    'session',
    'session',
    'session',
    'forged',
  ]);
  expect(sharedSecretCount()).toBe(before + 1);
});

test('again and again: each move is prepared under the pair that the one before it agreed', () => {
  let prepared = first();
  for (let epoch = 1; epoch <= 4; epoch++) {
    const { datagram, next } = moveOf(prepared, epoch, `10.77.${epoch}.2`);
    const { state } = accepted(consume(prepared.state, datagram));
    prepared = prepare(next, hellos(next, state.pair.cell, epoch, `10.77.${epoch + 1}.2`), [state]);
  }
  expect(prepared.state.epoch).toBe(4);
});

test('replays and old epochs do nothing', () => {
  const prepared = first();
  const hold = createHold(prepared.session, 1);
  const held = accepted(consume(prepared.state, hold));
  const bye = accepted(consume(held.state, createBye(prepared.session, { epoch: 2, reason: 'aborted' })));
  expect(consume(bye.state, hold)).toMatchObject({ outcome: 'dropped', reason: 'stale' });
  const second = createBye(prepared.session, { epoch: 2, reason: 'ended' });
  expect(consume(bye.state, second)).toMatchObject({ outcome: 'dropped', reason: 'stale' });
  expect(consume(bye.state, held.ack)).toMatchObject({ outcome: 'dropped', reason: 'type' });
});

test('a suspended cell is resumed by a MOVE of a later epoch under the same session', () => {
  const prepared = first();
  const held = accepted(consume(prepared.state, createHold(prepared.session, 1)));
  const moved = accepted(consume(held.state, moveOf(prepared, 2, '10.77.3.2').datagram));
  expect(moved.message).toMatchObject({ labels: labels('10.77.3.2') });
});

test('a changed MOVE is dropped and leaves the true one acceptable', () => {
  const prepared = first();
  const { datagram } = moveOf(prepared, 1);
  const forged = consume(prepared.state, datagram.with(-1, (datagram.at(-1) ?? 0) ^ 1));
  expect(forged).toMatchObject({ outcome: 'dropped', reason: 'forged' });
  const before = sharedSecretCount();
  accepted(consume(forged.state, datagram));
  expect(sharedSecretCount()).toBe(before);
});

test('who claims a cell that has moved needs the pair that the move agreed', () => {
  const prepared = first();
  const { datagram, next } = moveOf(prepared, 1);
  const { state } = accepted(consume(prepared.state, datagram));
  const stranger = generateKeyPair();
  const offers: [KeyPair, number][] = [
    [stranger, 1],
    [prepared.keys, 1],
    [next, 2],
  ];
  for (const [keys, epoch] of offers) {
    const [hello] = hellos(keys, state.pair.cell, epoch, '10.77.9.9');
    expect(hello && pairFor(hello, [state])).toBeUndefined();
  }
  const [own] = hellos(next, state.pair.cell, 1, '10.77.3.2');
  expect(own && pairFor(own, [state])).toBe(state);
});

test('at first contact the same key gets the same pair, another key one of its own, up to a limit', () => {
  const cell = newCellId();
  const known: PeerState[] = [];
  for (let index = 0; index < PAIRS_PER_CELL_MAX; index++) {
    const [hello] = hellos(generateKeyPair(), cell, 0, '10.77.2.2');
    const state = hello && pairFor(hello, known);
    if (hello === undefined || state === undefined) throw new Error('refused');
    expect(pairFor(hello, [...known, state])).toBe(state);
    known.push(state);
  }
  const [hello] = hellos(generateKeyPair(), cell, 0, '10.77.2.2');
  expect(hello && pairFor(hello, known)).toBeUndefined();
  // Those of another source are not counted.
  expect(hello && pairFor(hello, known, known.slice(1))).toBeDefined();
  const [unknown] = hellos(generateKeyPair(), cell, 5, '10.77.2.2');
  expect(unknown && pairFor(unknown, [])).toBeUndefined();
});

test('a cell side with a weak key costs one public-key operation in all', () => {
  const weak = { publicKey: new Uint8Array(32), secretKey: new Uint8Array(32) };
  const [hello] = hellos(weak, newCellId(), 0, '10.77.2.2');
  const state = hello && pairFor(hello, []);
  if (state === undefined) throw new Error('refused');
  const keys = {
    cell: state.pair.cell,
    tag: new Uint8Array(8),
    toPeer: new Uint8Array(32),
    toCell: new Uint8Array(32),
  };
  expect(consume(state, createHold(keys, 1))).toMatchObject({ reason: 'session' });
  const before = sharedSecretCount();
  const tagged = { ...keys, tag: sessionTag(state.pair) };
  const dropped = consume(state, createHold(tagged, 1));
  expect(dropped).toMatchObject({ reason: 'weak-key' });
  expect(consume(dropped.state, createHold(tagged, 2))).toMatchObject({ reason: 'weak-key' });
  expect(sharedSecretCount()).toBe(before + 1);
});

test('10,000 outgoing connections are armed in parts, in any order and twice, and moved by one datagram', () => {
  const keys = generateKeyPair();
  const parts = hellos(keys, newCellId(), 0, '10.77.2.2', 10_000);
  const { state, session, transaction } = prepare(keys, [...parts.toReversed(), ...parts.slice(0, 3)]);
  const all = labels('10.77.2.2', 10_000);
  const { publicKey } = generateKeyPair();
  const datagram = createMove(session, { epoch: 1, transaction, nextPublicKey: publicKey, labels: all });
  const moved = accepted(consume(state, datagram));
  expect(moved.message.type === 'move' && moved.message.labels.length).toBe(10_000);
  const partial = { ...state, armed: [] };
  expect(consume(partial, datagram)).toMatchObject({ outcome: 'dropped', reason: 'unarmed' });
});

test('a new transaction replaces an older plan, whose labels do not mix with its own', () => {
  const keys = generateKeyPair();
  const cell = newCellId();
  const abandoned = hellos(keys, cell, 0, '10.77.2.2', 600);
  const planned = hellos(keys, cell, 0, '10.77.2.2', 500);
  const { state, session } = prepare(keys, [...abandoned, ...planned, ...abandoned.slice(0, 1)]);
  const [hello] = planned;
  if (hello === undefined) throw new Error('no part');
  const { publicKey } = generateKeyPair();
  const move = {
    epoch: 1,
    nextPublicKey: publicKey,
    transaction: hello.transaction,
    labels: labels('10.77.2.2', 500),
  };
  const moved = accepted(consume(state, createMove(session, move)));
  expect(moved.message.type === 'move' && moved.message.labels.length).toBe(500);
});

test('an arming in parts: any order, each as often as it comes, and a MOVE of it once all are there', () => {
  const { state: before, session } = first();
  const many = labels('10.77.3.2', 300);
  const transaction = newTransaction();
  const part = (number: number, epoch = 2) =>
    createArm(session, {
      epoch,
      part: number,
      parts: 3,
      transaction,
      labels: many.slice(number * 100, (number + 1) * 100),
    });
  const move = (epoch: number) =>
    createMove(session, { epoch, transaction, nextPublicKey: generateKeyPair().publicKey, labels: many });
  let state = accepted(consume(before, part(2))).state;
  const again = consume(state, part(2));
  expect(again).toMatchObject({ outcome: 'duplicate', state });
  state = accepted(consume(state, part(0))).state;
  expect(consume(state, move(3))).toMatchObject({ reason: 'unarmed' });
  const last = accepted(consume(state, part(1)));
  expect(consumeAck(session, { type: 'arm', epoch: 2, part: 1 }, sealedOf(last.ack))).toMatchObject({
    part: 1,
  });
  expect(consumeAck(session, { type: 'arm', epoch: 2, part: 0 }, sealedOf(last.ack))).toEqual({
    drop: 'stale',
  });
  expect(consume(last.state, part(0, 3))).toMatchObject({ reason: 'value' });
  const moved = accepted(consume(last.state, move(3)));
  expect(moved.message).toMatchObject({ type: 'move', labels: many });
  expect(consume(moved.state, part(0))).toMatchObject({ reason: 'session' });
});

test('an arming gives way to a later one, to a HOLD and to a BYE, and not to an earlier one', () => {
  const { state: before, session } = first();
  const armed = (epoch: number, transaction = newTransaction()) =>
    createArm(session, { epoch, part: 0, parts: 1, transaction, labels: labels('10.77.3.2') });
  const [older, newer] = [armed(2), armed(5)];
  const late = accepted(consume(before, newer)).state;
  expect(consume(late, older)).toMatchObject({ reason: 'stale' });
  const both = accepted(consume(accepted(consume(before, older)).state, newer)).state;
  expect(consume(both, older)).toMatchObject({ reason: 'stale' });
  expect(consume(both, newer)).toMatchObject({ outcome: 'duplicate' });
  for (const message of [createHold(session, 6), createBye(session, { epoch: 6, reason: 'aborted' })])
    expect(consume(accepted(consume(both, message)).state, newer)).toMatchObject({ reason: 'stale' });
});
