/**
 * Identities: a host learns them at first use, and refuses others loudly: nothing is touched, and the connections go on.
 * One stream with numbered bytes runs through all of it.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { EXIT_STATUS } from '../agent/error.ts';
import { execOn, LAB_HOSTS, LAB_HOSTS6, type LabHost } from '../fixtures/lab/hosts.ts';
import {
  type StreamClient,
  type StreamServer,
  startStreamClient,
  startStreamServer,
} from '../fixtures/load/control.ts';
import { TRUST_DIRECTORY, withAgentDown } from './agent-files.ts';
import { migrateArgs, move, type Outcome, osmosis } from './cli.ts';
import { imageDirectory, resume, resumeArgs, suspend } from './suspending.ts';
import { AGENT_HOSTS, leftSince, type Traces, traces } from './traces.ts';

const PORT = 7600;
const BETWEEN_MS = 500;
const ASKED_AGAIN_MS_MAX = 60_000;
/** A look costs a whole command on three hosts. */
const LOOK_MS = 1_000;
const DIRECTORY = TRUST_DIRECTORY;
const BACKUP = '/var/lib/trust-before-the-test';
const { alpha: ALPHA, beta: BETA, peer: PEER } = LAB_HOSTS;

type Listed = {
  fingerprint: string;
  public_key: string;
  policy: string;
  addresses: string[];
  known: { address: string; fingerprint: string; how: string }[];
  refused: { address: string; fingerprint: string; why: string; count: number }[];
};

let before: Traces;
let server: StreamServer;
let client: StreamClient;
/** Where the server is, and what it is called there. */
let here: 'alpha' | 'beta' = 'alpha';
let target: string | number;

async function trust(...args: string[]): Promise<Record<string, unknown>> {
  const { object, exitCode, stderr } = await osmosis(['trust', ...args, '--json']);
  expect({ object, exitCode, stderr }).toMatchObject({ object: { ok: true }, exitCode: 0 });
  return object;
}

const list = async (host: LabHost) => (await trust('list', '--on', `ssh://${host}`)) as unknown as Listed;
const knownAt = async (host: LabHost, address: string) =>
  (await list(host)).known.find((each) => each.address === address);

const installAnew = (host: LabHost) => withAgentDown(host, `rm ${DIRECTORY}/identity`);
/** A peer that has agreed to the cell's connections is not asked at a move, but every 20 s. */
const untilAskedAgain = () =>
  expect
    .poll(async () => (await osmosis(migrateArgs(target, here, there(), '--dry-run'))).object, {
      timeout: ASKED_AGAIN_MS_MAX,
      interval: LOOK_MS,
    })
    .not.toMatchObject({ plan: { peers: [{ registered: true }] } });
const there = () => (here === 'alpha' ? 'beta' : 'alpha');
const tryMove = () => osmosis(migrateArgs(target, here, there()));

async function untrusted({ object, exitCode }: Outcome, ...named: string[]): Promise<void> {
  expect(object).toMatchObject({ ok: false, code: 'PEER_UNTRUSTED', owner: 'source' });
  expect(exitCode).toBe(EXIT_STATUS.PEER_UNTRUSTED);
  for (const name of named) expect(object.message).toContain(name);
  expect((await server.locate()).map(({ host }) => host)).toEqual([here]);
}

/** To the other of alpha and beta. */
async function moves(): Promise<void> {
  const { cell, flows } = await move(target, here, there());
  expect(flows).toMatchObject({ moved: 6, lost: 0 });
  [here, target] = [there(), cell];
  await sleep(BETWEEN_MS);
}

beforeAll(async () => {
  const forget = `cp -a ${DIRECTORY} ${BACKUP}; rm ${DIRECTORY}/known.json`;
  await Promise.all(AGENT_HOSTS.map((host) => withAgentDown(host, forget)));
  before = await traces();
  server = await startStreamServer('alpha', { port: PORT });
  target = server.pid;
  client = await startStreamClient({ server: 'alpha', port: PORT, connections: 5, everyMs: 20 });
});

afterAll(async () => {
  await server[Symbol.asyncDispose]();
  // Other tests' hosts know one another by what was before.
  const restore = `rm -rf ${DIRECTORY}; mv ${BACKUP} ${DIRECTORY}`;
  await Promise.all(AGENT_HOSTS.map((host) => withAgentDown(host, restore)));
});

describe('identities', () => {
  it('are learnt at first use, by both sides, once a move has shown who is who', async () => {
    const [alpha, beta, peer] = await Promise.all([list('alpha'), list('beta'), list('peer')]);
    expect(alpha).toMatchObject({ policy: 'first-use', known: [], refused: [] });
    expect(alpha.addresses).toEqual(expect.arrayContaining([ALPHA, LAB_HOSTS6.alpha]));
    expect(new Set([alpha, beta, peer].map(({ fingerprint }) => fingerprint)).size).toBe(3);
    const mode = ['stat', '-c', '%a', DIRECTORY, `${DIRECTORY}/identity`, `${DIRECTORY}/known.json`];
    expect((await execOn('alpha', mode)).stdout.split('\n')).toEqual(['700', '600', '600']);
    await moves();
    await moves();
    expect(await knownAt('alpha', PEER)).toMatchObject({ fingerprint: peer.fingerprint, how: 'first-use' });
    expect(await knownAt('peer', ALPHA)).toMatchObject({ fingerprint: alpha.fingerprint, how: 'first-use' });
    expect(await knownAt('peer', BETA)).toMatchObject({ fingerprint: beta.fingerprint });
  });

  it('of a peer that changed are refused by the mover, until the new one is pinned', async () => {
    const old = await list('peer');
    await installAnew('peer');
    const fresh = await list('peer');
    expect(fresh.fingerprint).not.toBe(old.fingerprint);
    await untilAskedAgain();
    await untrusted(await tryMove(), PEER, old.fingerprint, fresh.fingerprint, 'osmosis trust revoke');
    expect((await list('alpha')).refused).toMatchObject([
      { address: PEER, fingerprint: fresh.fingerprint, why: 'mismatch' },
    ]);
    const { stdout } = await execOn('alpha', ['tail', '-n', '20', '/var/log/osmosis-agent.log']);
    expect(stdout).toContain('REFUSED');

    const corrected = async (host: LabHost) => {
      await trust('revoke', old.fingerprint, '--on', `ssh://${host}`, '--dry-run');
      expect(await knownAt(host, PEER)).toMatchObject({ fingerprint: old.fingerprint });
      await trust('revoke', old.fingerprint, '--on', `ssh://${host}`);
      expect(await knownAt(host, PEER)).toBeUndefined();
      await trust('pin', PEER, fresh.public_key, '--on', `ssh://${host}`);
      expect(await knownAt(host, PEER)).toMatchObject({ fingerprint: fresh.fingerprint, how: 'pinned' });
    };
    await Promise.all([corrected('alpha'), corrected('beta')]);
    const pinOld = ['trust', 'pin', 'peer', old.fingerprint, '--on', 'ssh://alpha', '--json'];
    expect((await osmosis(pinOld)).object).toMatchObject({ ok: false, code: 'PEER_UNTRUSTED' });
    await moves();
  });

  it('of a mover that changed are refused by the peer, which says so', async () => {
    const old = await list('beta');
    await installAnew('beta');
    const fresh = await list('beta');
    const why = `the peer ${PEER} refuses this host`;
    await untrusted(await tryMove(), why, old.fingerprint, fresh.fingerprint, 'osmosis trust pin');
    expect((await list('peer')).refused).toMatchObject([
      { address: BETA, fingerprint: fresh.fingerprint, why: 'mismatch' },
    ]);
    await trust('pin', BETA, fresh.fingerprint, '--on', 'ssh://peer');
    expect((await list('peer')).refused).toEqual([]);
    await moves();
  });

  it('are to be pinned where that is the policy; import pins all that SSH reaches', async () => {
    const hosts = ['alpha', 'beta', 'peer'] as const;
    const urls = hosts.map((host) => `ssh://${host}`);
    await trust('policy', 'pinned', '--on', 'ssh://peer');
    await trust('revoke', ALPHA, '--on', 'ssh://peer');
    await untrusted(await tryMove(), PEER, 'refuses this host');
    for (const host of ['alpha', 'beta']) await trust('policy', 'pinned', '--on', `ssh://${host}`);

    const refused = await osmosis(['trust', 'import', ...urls, '--json']);
    expect(refused.object).toMatchObject({ ok: false, code: 'PEER_UNTRUSTED' });
    expect(refused.object.message).toContain('has been revoked');
    await trust('import', ...urls, '--replace', '--dry-run');
    expect(await knownAt('peer', ALPHA)).toBeUndefined();
    await trust('import', ...urls, '--replace');
    const lists = await Promise.all(hosts.map(list));
    for (const [index, { known }] of lists.entries()) {
      for (const [other, { fingerprint }] of lists.entries()) {
        const name = hosts[other];
        if (other === index || name === undefined) continue;
        for (const address of [LAB_HOSTS[name], LAB_HOSTS6[name]])
          expect(known).toContainEqual(expect.objectContaining({ address, fingerprint, how: 'pinned' }));
      }
    }
    await moves();
    expect((await osmosis(['trust', 'list', '--on', 'ssh://peer'])).stdout).toContain('policy pinned');
  });

  it('that are revoked have announced in vain: a cell that one has suspended does not come back until it is pinned', async () => {
    using images = imageDirectory();
    const file = images.file('revoked');
    await suspend(target, here, file);
    const { fingerprint } = await list(here);
    const peer = ['--on', 'ssh://peer'];
    const { dropped } = await trust('revoke', fingerprint, ...peer);
    expect(dropped).toMatchObject([{ address: LAB_HOSTS[here], flows: 6 }]);
    const refused = await osmosis(resumeArgs(file, there()));
    expect(refused.object).toMatchObject({ ok: false, code: 'IMAGE_STALE' });
    expect(refused.object.message).toContain('osmosis trust list');
    expect((await list('peer')).refused).toContainEqual(
      expect.objectContaining({ address: LAB_HOSTS[here], fingerprint, why: 'revoked' }),
    );
    await trust('pin', LAB_HOSTS[here], fingerprint, '--replace', ...peer);
    const { cell, flows } = await resume(file, there());
    expect(flows).toMatchObject({ moved: 6, lost: 0 });
    [here, target] = [there(), cell];
    await sleep(BETWEEN_MS);
  });

  it('that are no identities, addresses or policies are refused, and change nothing', async () => {
    const known = (await list('alpha')).known;
    const bad = [
      ['pin', PEER, 'SHA256:short'],
      ['pin', 'no.such.host.invalid', 'SHA256:x'],
      ['revoke', '10.9.9.9'],
      ['revoke', (await list('alpha')).fingerprint],
      ['policy', 'none'],
    ];
    const outcomes = bad.map((args) => osmosis(['trust', ...args, '--on', 'ssh://alpha', '--json']));
    for (const { object, exitCode } of await Promise.all(outcomes)) {
      expect(object).toMatchObject({ ok: false });
      expect([EXIT_STATUS.USAGE, EXIT_STATUS.NO_SUCH_TARGET]).toContain(exitCode);
    }
    expect((await list('alpha')).known).toEqual(known);
  });

  it('cost the connections nothing, and leave nothing', async () => {
    expect(await client.stop()).toMatchObject({ ok: true, resets: 0, out_of_order: 0 });
    await server[Symbol.asyncDispose]();
    expect(await leftSince(before)).toEqual({});
  });
});
