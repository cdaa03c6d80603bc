import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { execaSync } from 'execa';
import { describe, expect, test } from 'vitest';
import { newCellId, newTransaction } from '../wire/h2o.ts';
import { fingerprintOf, fingerprintText } from '../wire/h2o-identity.ts';
import { isDrop } from '../wire/h2o-layout.ts';
import {
  consumeAck,
  createBye,
  createFollow,
  createHold,
  createMove,
  deriveSession,
  generateKeyPair,
  open,
  type Pair,
  type Session,
  sharedSecretCount,
} from '../wire/h2o-session.ts';
import {
  type Cell,
  hello,
  labelsOf,
  newCell,
  peerKey,
  sealedOf,
  sessionOf,
  startPeer,
} from './scripted-cell.ts';

const HOME = '127.0.0.1';
const AWAY = '127.0.0.2';
const FURTHER = '127.0.0.3';
const CELLS = 100;
const FLOWS_PER_CELL = 10;
const TEST_MS_MAX = 60_000;
const hasIp = !execaSync('ip', ['-Version'], { reject: false }).failed;
if (!hasIp) console.warn('SKIPPED: the life of keys is not tested, this machine has no ip(8)');

/** Announces, moves and is acknowledged; then the cell as its new host knows it, and all that was said. */
async function moved(say: ReturnType<typeof startPeer>['say'], cell: Cell, from: string, to: string) {
  const transaction = newTransaction();
  const announced = hello(cell, labelsOf(cell, to), transaction);
  const [welcome] = await say(from, announced);
  const session = sessionOf(cell, peerKey(welcome));
  const [next, epoch] = [generateKeyPair(), cell.epoch + 1];
  const labels = labelsOf(cell, to);
  const move = createMove(session, { epoch, transaction, labels, nextPublicKey: next.publicKey });
  const [answer] = await say(to, move);
  const ack = consumeAck(session, { type: 'move', epoch }, sealedOf(answer));
  if (isDrop(ack) || ack.acknowledged !== 'move') return expect.fail('no ACK');
  const now: Cell = { ...cell, keys: next, epoch };
  return {
    now,
    session,
    transaction,
    announced,
    move,
    ack: answer ?? expect.fail(),
    peerPublicKey: ack.nextPublicKey,
  };
}

describe.skipIf(!hasIp)('the life of keys', { timeout: TEST_MS_MAX }, () => {
  test(`${CELLS} cells with ${CELLS * FLOWS_PER_CELL} flows: no secret before they move, one on each side then`, async () => {
    const { say, peer } = startPeer();
    const cells = await Promise.all(Array.from({ length: CELLS }, () => newCell(FLOWS_PER_CELL)));
    const before = sharedSecretCount();
    const asked = await say(HOME, ...cells.map((cell) => hello(cell, [])));
    expect(new Set(asked.map((welcome) => Buffer.from(peerKey(welcome)).toString('hex'))).size).toBe(CELLS);
    expect(sharedSecretCount() - before).toBe(0);

    const transactions = cells.map(() => newTransaction());
    const welcomes = await say(
      HOME,
      ...cells.map((cell, index) => hello(cell, labelsOf(cell, AWAY), transactions[index])),
    );
    expect(sharedSecretCount() - before).toBe(CELLS);
    const sessions = cells.map((cell, index) => sessionOf(cell, peerKey(welcomes[index])));
    expect(sharedSecretCount() - before).toBe(2 * CELLS);

    const moves = cells.map((cell, index) =>
      createMove(sessions[index] ?? expect.fail(), {
        epoch: 1,
        nextPublicKey: generateKeyPair().publicKey,
        transaction: transactions[index] ?? expect.fail(),
        labels: labelsOf(cell, AWAY),
      }),
    );
    expect(await say(AWAY, ...moves, ...moves)).toHaveLength(2 * CELLS);
    expect(sharedSecretCount() - before).toBe(2 * CELLS);
    expect(peer.list().map(({ flows, state }) => [flows, state])).toEqual(
      cells.map(() => [FLOWS_PER_CELL, 'moved']),
    );
  });

  test('as many where the policy changes in between, and for the pairs that the moves have agreed', async () => {
    const { say, peer, trust } = startPeer();
    const cells = await Promise.all(Array.from({ length: CELLS }, () => newCell(FLOWS_PER_CELL)));
    await say(HOME, ...cells.map((cell) => hello(cell, [])));
    const before = sharedSecretCount();
    trust.known.setPolicy('pinned');
    const refused = await say(HOME, ...cells.map((cell) => hello(cell, labelsOf(cell, AWAY))));
    for (const welcome of refused) expect(peerKey(welcome)).toEqual(new Uint8Array(32));
    expect(sharedSecretCount() - before).toBe(0);

    const fingerprint = fingerprintText(fingerprintOf(cells[0]?.identity.publicKey ?? expect.fail()));
    const pins = [HOME, AWAY].map((address) => ({ address, fingerprint }));
    trust.known.pin(pins, { replace: false, dryRun: false });
    const arrived: Cell[] = [];
    for (const cell of cells) arrived.push((await moved(say, cell, HOME, AWAY)).now);
    expect(sharedSecretCount() - before).toBe(2 * CELLS);
    await say(AWAY, ...arrived.map((cell) => hello(cell, [])));
    expect(sharedSecretCount() - before).toBe(2 * CELLS);
    for (const cell of arrived) await moved(say, cell, AWAY, FURTHER);
    expect(sharedSecretCount() - before).toBe(4 * CELLS);
    expect(peer.list().map(({ flows, epoch, wire }) => [flows, epoch, wire])).toEqual(
      cells.map(() => [FLOWS_PER_CELL, 2, [FURTHER]]),
    );
  });

  test('what the old host knows moves, holds, ends and reads nothing any more', async () => {
    const { say, peer, socket, directory } = startPeer();
    const cell = await newCell(2);
    const old = await moved(say, cell, HOME, AWAY);
    const listed = JSON.stringify(peer.list());

    // It has the session, both recorded datagrams, and so both public keys of the pair after.
    const read = open(old.session, sealedOf(old.move));
    expect(read).toMatchObject({ type: 'move', nextPublicKey: old.now.keys.publicKey });
    const sessions = [old.session, ...guesses(cell, old.now.keys.publicKey, old.peerPublicKey)];
    const labels = labelsOf(cell, HOME);
    const tried = sessions.flatMap((session) =>
      [1, 2, 3, 2 ** 32 - 1].flatMap((epoch) => [
        createMove(session, {
          epoch,
          labels,
          transaction: old.transaction,
          nextPublicKey: cell.keys.publicKey,
        }),
        createHold(session, epoch),
        createBye(session, { epoch, reason: 'aborted' }),
        createBye(session, { epoch, reason: 'ended' }),
        createFollow(session, { epoch, leaseSeconds: 60, labels, ended: [] }),
      ]),
    );
    for (const from of [HOME, AWAY]) expect(await say(from, ...tried)).toEqual([]);
    expect([...new Set(socket.drops)].toSorted()).toEqual(['forged', 'session', 'stale']);

    // What it has said comes again, also from elsewhere; and it claims the flows anew, with its own keys and the new ones.
    const others = [
      cell,
      { ...cell, id: newCellId() },
      { ...old.now, keys: { ...cell.keys, publicKey: old.now.keys.publicKey } },
    ];
    const claims = others.map((one) => hello(one, labels));
    for (const datagram of [old.announced, ...claims]) {
      const [welcome] = await say(HOME, datagram);
      expect(peerKey(welcome)).toEqual(new Uint8Array(32));
    }
    expect(await say(HOME, old.move)).toEqual([old.ack]);
    expect(JSON.stringify(peer.list())).toBe(listed);

    // The new host moves on, and of that the old one opens nothing either.
    const next = await moved(say, old.now, AWAY, FURTHER);
    expect(peer.list()).toMatchObject([{ state: 'moved', epoch: 2, flows: 2, wire: [FURTHER] }]);
    for (const session of sessions) {
      for (const datagram of [next.move, next.ack])
        expect(['session', 'forged']).toContain(
          (open(session, sealedOf(datagram)) as { drop?: string }).drop,
        );
    }
    // Nor is there anything left of the old pair at the peer.
    for (const key of [old.session.toPeer, old.session.toCell]) expect(isWritten(directory, key)).toBe(false);
    expect(isWritten(directory, next.peerPublicKey)).toBe(true);
  });
});

/** Sessions of the pair after, from every public key with every secret one that the old host has had. */
function guesses(cell: Cell, cellPublicKey: Uint8Array, peerPublicKey: Uint8Array): Session[] {
  const { secretKey } = cell.keys;
  const pair: Pair = { cell: cell.id, epoch: 1, cellPublicKey, peerPublicKey };
  const made = (['cell', 'peer'] as const).map((role) => deriveSession({ ...pair, secretKey, role }));
  return made.map((session) => (isDrop(session) ? expect.fail(session.drop) : session));
}

/** Whether any file holds these bytes: raw, or in text. */
function isWritten(directory: string, bytes: Uint8Array): boolean {
  const needle = Buffer.from(bytes);
  const files = readdirSync(directory, { recursive: true, withFileTypes: true }).filter((entry) =>
    entry.isFile(),
  );
  return files.some((file) => {
    const content = readFileSync(join(file.parentPath, file.name));
    return [needle, needle.toString('hex'), needle.toString('base64')].some((text) => content.includes(text));
  });
}
