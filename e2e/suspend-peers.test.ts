/**
 * What becomes of connections with a suspended process, by what their peers do meanwhile. The limits of the peers' kernels
 * are shrunk to 6 s, so the suspension lasts several times as long as any of them: as an hour does by default.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { execOn, type LabHost } from '../fixtures/lab/hosts.ts';
import { resumedAfterMs, startWaitingClients, startWaitingServer } from '../fixtures/load/waiting.ts';
import { killAgent, untilAgentsBack } from './agents.ts';
import { replaceProgram } from './inject.ts';
import { imageDirectory, resume, suspend } from './suspending.ts';
import { leftSince, type Traces, traces } from './traces.ts';

const PORT = 7650;
/** tcp_retries2: the kernel gives up after 6 s without an answer, instead of 924. */
const RETRIES = 4;
const RETRIES_USUAL = 15;
/** Twenty times as long as the longest limit of a connection that is not answered. */
const AWAY_MS = 120_000;
const CASE_MS_MAX = AWAY_MS + 120_000;
/** Buffers are full. */
const TRAFFIC_MS = 500;
const AGAIN_MS = 1_000;
/** Longer than the first timeout of a restored socket, shorter than the process waits for its peers. */
const TURN_S = 5;
/** A round trip and 50 ms is what is promised; the machine is busy. What waits for a timer waits for 5 s and more. */
const RESUMED_MS_MAX = 1_500;
const KEEPALIVE = 'TCP_KEEPIDLE=1,TCP_KEEPINTVL=1,TCP_KEEPCNT=4';
const KINDS = [
  'send',
  'send,TCP_USER_TIMEOUT=4000',
  'receive',
  `receive,TCP_USER_TIMEOUT=4000,${KEEPALIVE}`,
  // They ask while the process is away.
  'idle',
  `idle,${KEEPALIVE}`,
  'idle,TCP_USER_TIMEOUT=4000',
];

let before: Traces;
let images: ReturnType<typeof imageDirectory>;
beforeAll(async () => {
  before = await traces();
  images = imageDirectory();
});
afterAll(async () => {
  images[Symbol.dispose]();
  expect(await leftSince(before)).toEqual({});
});

describe('while the process is suspended', () => {
  it(
    'no peer gives up, and all go on at once; where nobody answers they do give up',
    async () => {
      await using server = await startWaitingServer('alpha', PORT);
      await using clients = await startWaitingClients('peer', 'alpha', PORT, KINDS);
      await using lonely = await startWaitingClients('gamma', 'alpha', PORT, KINDS);
      await using _peer = await shrunk('peer');
      await using _gamma = await shrunk('gamma');
      await sleep(TRAFFIC_MS);
      const file = images.file('waiting');
      {
        await using _silence = await unanswered();
        await suspend(server.pid, 'alpha', file);
        clients.ask();
        lonely.ask();
        await sleep(AWAY_MS);
      }
      await resume(file, 'beta');
      await sleep(AGAIN_MS);
      const summary = await clients.stop();
      expect(summary.clients.map(({ what, fault }) => ({ what, fault }))).toEqual(
        KINDS.map((what) => ({ what, fault: null })),
      );
      for (const client of summary.clients)
        expect([client.what, resumedAfterMs(client)]).toEqual([
          client.what,
          expect.toSatisfy((ms: number) => ms < RESUMED_MS_MAX),
        ]);
      const given = (await lonely.stop()).clients.filter(({ fault }) => fault === 'ETIMEDOUT');
      // What only receives does not miss anybody.
      expect(given.map(({ what }) => what)).toEqual(KINDS.filter((what) => what !== 'receive'));
    },
    CASE_MS_MAX,
  );
});

describe('when it is resumed', () => {
  it('nothing is said to a peer that takes its time to turn, or it would answer with a reset', async () => {
    const port = PORT + 1;
    await using server = await startWaitingServer('alpha', port);
    await using clients = await startWaitingClients('peer', 'alpha', port, ['receive', 'send']);
    // So that the process has something to repeat.
    await execOn('peer', ['pkill', '-STOP', '-f', 'waiting-client.py']);
    await sleep(AGAIN_MS);
    const file = images.file('slow');
    await suspend(server.pid, 'alpha', file);
    {
      await using _slow = await slowToTurn('peer');
      await resume(file, 'beta');
    }
    await execOn('peer', ['pkill', '-CONT', '-f', 'waiting-client.py']);
    await sleep(AGAIN_MS);
    expect(await clients.stop()).toMatchObject({ ok: true });
  });
});

/** It takes a while until the host knows where packets of the process come from. The agent is another one, for it keeps one bpftool running. */
async function slowToTurn(host: LabHost): Promise<AsyncDisposable> {
  const slow = `s=${TURN_S}; while read -r line; do case "$line" in *maps/ingress*) sleep "$s"; s=0;; esac; echo "$line"; done`;
  const body = `[ "$1" = batch ] || exec "$REAL" "$@"\n{ ${slow}; } | "$REAL" "$@"`;
  const bpftool = await replaceProgram(host, 'bpftool', body);
  const again = async () => {
    await killAgent(host);
    await untilAgentsBack(host);
  };
  await again();
  return {
    async [Symbol.asyncDispose]() {
      await bpftool[Symbol.asyncDispose]();
      await again();
    },
  };
}

async function shrunk(host: LabHost): Promise<AsyncDisposable> {
  const retries = (number: number) => execOn(host, ['sysctl', '-qw', `net.ipv4.tcp_retries2=${number}`]);
  await retries(RETRIES);
  return { [Symbol.asyncDispose]: async () => void (await retries(RETRIES_USUAL)) };
}

/**
 * The datapath's answers do not get to sockets of gamma (nothing else comes with so many hops left), nor does its agent lift
 * what it can't be helped against with answers.
 */
async function unanswered(): Promise<AsyncDisposable> {
  const bpftool = await replaceProgram(
    'gamma',
    'bpftool',
    'case "$*" in *autoattach*) exit 1;; esac\nexec "$REAL" "$@"',
  );
  const rule = `chain in { type filter hook input priority 0; tcp sport ${PORT} ip ttl 255 drop; }`;
  await execOn('gamma', ['nft', `table inet unanswered { ${rule}; }`]);
  return {
    async [Symbol.asyncDispose]() {
      await execOn('gamma', ['nft', 'delete table inet unanswered']);
      await bpftool[Symbol.asyncDispose]();
    },
  };
}
