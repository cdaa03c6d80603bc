/** Question and answer between two agents, over sockets without a network. */
import { setTimeout as sleep } from 'node:timers/promises';
import { pino } from 'pino';
import { expect, test } from 'vitest';
import type { AgentContext } from '../context.ts';
import { Decision } from '../criu/decision.ts';
import { FakeSocket } from '../h2o/fake-socket.ts';
import { temporaryDirectory } from '../test-support.ts';
import { createQuery, newQueryNonce } from '../wire/h2o-verdict.ts';
import { answerQueries, askVerdict } from './verdicts.ts';

const id = 'ab'.repeat(16);
const secret = { migration: new Uint8Array(Buffer.from(id, 'hex')), key: new Uint8Array(32).fill(7) };
const ADDRESSES = ['10.77.1.2', '192.0.2.1'];
const live = new AbortController().signal;

/** A source that holds the migration's files, and the destination's socket, joined to it. */
function hosts(isUnderWay: () => boolean = () => false) {
  const [source, destination] = [new FakeSocket(), new FakeSocket()];
  const state = temporaryDirectory();
  const decision = new Decision(`${state}/decisions`, id);
  decision.prepare(secret.key);
  const context = { paths: { run: state, state }, socket: source.asH2o(), log: pino({ enabled: false }) };
  answerQueries(context as AgentContext, isUnderWay);
  destination.onSend(({ datagram, address }) => {
    if (address === ADDRESSES[0]) source.receive(datagram, { address: '10.77.2.2', port: 18_018 });
  });
  source.onSend(({ datagram }) =>
    destination.receive(datagram, { address: ADDRESSES[0] ?? '', port: 18_018 }),
  );
  return { source, destination, decision };
}

test.each(['commit', 'abort'] as const)('%s is told to whoever asks, at all addresses', async (verdict) => {
  const { destination, decision } = hosts();
  decision.decide(verdict);
  expect(await askVerdict(destination.asH2o(), secret, ADDRESSES, live)).toBe(verdict);
  expect(destination.sent.map(({ address }) => address)).toEqual(ADDRESSES);
  expect(destination.listeners).toBe(0);
});

test('a migration that nobody works on any more is aborted by the question', async () => {
  const { destination, decision } = hosts();
  expect(await askVerdict(destination.asH2o(), secret, ADDRESSES, live)).toBe('abort');
  expect(decision.decide('commit')).toBe('abort');
});

test('while it is under way the answer is undecided, and the question is asked again', async () => {
  const { destination, decision } = hosts(() => true);
  const asking = askVerdict(destination.asH2o(), secret, ADDRESSES, live);
  await sleep(50);
  expect(decision.read()).toBeUndefined();
  decision.decide('commit');
  expect(await asking).toBe('commit');
  expect(destination.sent.length).toBeGreaterThanOrEqual(4);
});

test('a forged question decides nothing, and one for another migration is not answered', () => {
  const { source, decision } = hosts();
  const from = { address: '10.77.9.9', port: 18_018 };
  source.receive(createQuery({ ...secret, key: new Uint8Array(32) }, newQueryNonce()), from);
  source.receive(createQuery({ ...secret, migration: new Uint8Array(16) }, newQueryNonce()), from);
  expect([source.sent, source.drops, decision.read()]).toEqual([[], ['forged'], undefined]);
});

test('asking ends with its signal', async () => {
  const socket = new FakeSocket();
  await expect(askVerdict(socket.asH2o(), secret, ADDRESSES, AbortSignal.timeout(20))).rejects.toThrow();
  expect(socket.listeners).toBe(0);
});
