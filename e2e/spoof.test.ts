/**
 * A host with connections and keys of its own writes another host's address on its datagrams, and claims that host's
 * connections: they go on, and move as if nothing had been.
 */
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { Flow } from '../agent/address.ts';
import { withReceipt } from '../agent/h2o/fake-socket.ts';
import { type Cell, hello, labelsOf, peerKey, sessionOf } from '../agent/h2o/scripted-cell.ts';
import { newCellId, newTransaction } from '../agent/wire/h2o.ts';
import { identityOf, newIdentitySeed } from '../agent/wire/h2o-identity.ts';
import { createBye, createHold, createMove, generateKeyPair } from '../agent/wire/h2o-session.ts';
import { execOn, LAB_HOSTS, type LabHost } from '../fixtures/lab/hosts.ts';
import { startStreamClient, startStreamServer } from '../fixtures/load/control.ts';
import { TRUST_DIRECTORY, withAgentDown } from './agent-files.ts';
import { move } from './cli.ts';
import { leavesNothing } from './traces.ts';

const SPOOF = ['python3', '-B', '/opt/osmosis/fixtures/load/spoof.py'];
const [PORT, OTHER_PORT] = [7620, 7621];
const ANSWERED_S_MAX = 5;
/** Whoever is not to be answered has not been by then. */
const UNANSWERED_S = 0.3;
const EVERY_MS = 20;
const IDENTITY = identityOf(newIdentitySeed());

/** The connections of a server with the peer, as the server's host names them. */
async function flowsOf(server: LabHost, port: number): Promise<Flow[]> {
  const filter = ['dst', LAB_HOSTS[server], 'dport', '=', `:${port}`];
  const { stdout } = await execOn('peer', ['ss', '-tnH', 'state', 'established', ...filter]);
  const local = { address: LAB_HOSTS[server], port };
  return [...stdout.matchAll(/10\.77\.4\.2:(\d+)/g)].map(([, client]) => ({
    protocol: 'tcp',
    local,
    remote: { address: LAB_HOSTS.peer, port: Number(client) },
  }));
}

/** What comes back to the host that has no agent, and sends all of it. */
async function sends(
  source: LabHost | undefined,
  datagrams: readonly Uint8Array[],
  answers = datagrams.length,
): Promise<Uint8Array[]> {
  const input = JSON.stringify({
    target: LAB_HOSTS.peer,
    // Only what comes from our own address is answered to it.
    ...(source === undefined ? { answers, wait: ANSWERED_S_MAX } : { answers: 1, wait: UNANSWERED_S }),
    datagrams: datagrams.map((datagram) => ({
      source: source === undefined ? null : LAB_HOSTS[source],
      hex: Buffer.from(datagram).toString('hex'),
    })),
  });
  const { stdout } = await execOn('legacy', SPOOF, { input });
  return stdout
    .split('\n')
    .filter(Boolean)
    .map((line) => new Uint8Array(Buffer.from(line, 'hex')));
}

/** A cell with keys that it has really exchanged with the peer, for a connection that it really has. */
async function withKeys(flows: readonly Flow[]) {
  const cell: Cell = { id: newCellId(), flows, keys: generateKeyPair(), epoch: 0, identity: IDENTITY };
  const asked = hello(cell, []);
  const [receipt] = await sends(undefined, [asked]);
  const [welcome] = await sends(undefined, [withReceipt(asked, receipt) ?? expect.fail('no receipt')]);
  return { cell, session: sessionOf(cell, peerKey(welcome)) };
}

leavesNothing();

const KNOWN = `${TRUST_DIRECTORY}/known.json`;
// Where the victim's identity is known, the attacker's is refused before anything else.
beforeAll(() => withAgentDown('peer', `mv ${KNOWN} ${KNOWN}.before`));
afterAll(() => withAgentDown('peer', `mv ${KNOWN}.before ${KNOWN}`));

it('takes, holds and disturbs nothing of that host', async () => {
  await using server = await startStreamServer('alpha', { port: PORT });
  await using own = await startStreamServer('legacy', { port: OTHER_PORT });
  await using client = await startStreamClient({
    server: 'alpha',
    port: PORT,
    connections: 5,
    everyMs: EVERY_MS,
  });
  await using its = await startStreamClient({
    server: 'legacy',
    port: own.port,
    connections: 1,
    traffic: 'idle',
  });
  const ownFlows = await flowsOf('legacy', OTHER_PORT);
  const flows = await flowsOf('alpha', PORT);
  expect([ownFlows.length, flows.length]).toEqual([2, 6]);

  const attack = async (from: LabHost) => {
    const { cell, session } = await withKeys(ownFlows);
    const victim = { ...cell, flows };
    const labels = labelsOf(victim, LAB_HOSTS.legacy);
    const transaction = newTransaction();
    const answers = await sends(from, [
      hello(victim, [], newTransaction(), true),
      hello(victim, labels, transaction),
      hello({ ...victim, id: newCellId(), keys: generateKeyPair() }, labels),
    ]);
    // They went to the host whose address it was.
    expect(answers).toEqual([]);
    const move = { labels, transaction, nextPublicKey: generateKeyPair().publicKey };
    // For its own pair it may say all that. A MOVE would overtake the others.
    const others = [createHold(session, 1), createBye(session, { epoch: 2, reason: 'aborted' })];
    expect(await sends(undefined, others)).toHaveLength(2);
    expect(await sends(undefined, [createMove(session, { ...move, epoch: 3 })])).toHaveLength(1);
  };

  await attack('alpha');
  // Also while it is on the move, and where it is then.
  const attacking = (async () => {
    for (let each = 0; each < 3; each++) await attack('alpha');
  })();
  const [moved] = await Promise.all([move(server.pid, 'alpha', 'beta'), attacking]);
  expect(moved.flows).toEqual({ moved: 6, relayed: 0, lost: 0 });
  await attack('beta');
  await move(moved.cell, 'beta', 'alpha');
  const summary = await client.stop();
  expect(summary).toMatchObject({ ok: true, resets: 0, out_of_order: 0 });
  expect((await its.stop()).resets).toBe(0);
});
