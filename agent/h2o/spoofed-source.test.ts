/** A host with a pair of its own, real keys and real messages, that sends with the source address of another host. */
import { execaSync } from 'execa';
import { describe, expect, test } from 'vitest';
import { newTransaction } from '../wire/h2o.ts';
import { identityOf, newIdentitySeed } from '../wire/h2o-identity.ts';
import type { Label } from '../wire/h2o-layout.ts';
import {
  createBye,
  createFollow,
  createHold,
  createMove,
  generateKeyPair,
  type Session,
} from '../wire/h2o-session.ts';
import { type Cell, hello, labelsOf, newCell, peerKey, sessionOf, startPeer } from './scripted-cell.ts';

const VICTIM = '127.0.0.1';
const AWAY = '127.0.0.2';
const ATTACKER = '127.0.0.3';
const hasIp = !execaSync('ip', ['-Version'], { reject: false }).failed;
if (!hasIp) console.warn('SKIPPED: spoofed sources are not tested, this machine has no ip(8)');

type Peer = ReturnType<typeof startPeer>;

async function begin() {
  const peer = startPeer();
  const victim = await newCell(2, VICTIM);
  const attacker = await newCell(1, ATTACKER, identityOf(newIdentitySeed()));
  const transaction = newTransaction();
  const [welcome] = await peer.say(ATTACKER, hello(attacker, labelsOf(attacker, AWAY), transaction));
  return { peer, victim, attacker, session: sessionOf(attacker, peerKey(welcome)), transaction };
}

/** Claims the other one's flows for a pair, from its address; what is answered goes there, and the attacker does not see it. */
async function claim(peer: Peer, attacker: Cell, victim: Cell): Promise<Uint8Array[]> {
  const transactions = [newTransaction(), newTransaction()];
  const its = { ...attacker, flows: victim.flows };
  for (const [index, transaction] of transactions.entries())
    await peer.spoof(VICTIM, hello(its, labelsOf(victim, ATTACKER), transaction, index > 0));
  return transactions;
}

function everything(session: Session, labels: readonly Label[], transactions: readonly Uint8Array[]) {
  const move = (transaction: Uint8Array, epoch: number) =>
    createMove(session, { epoch, labels, transaction, nextPublicKey: generateKeyPair().publicKey });
  return [
    createHold(session, 1),
    createFollow(session, { epoch: 2, leaseSeconds: 60, labels, ended: [] }),
    createBye(session, { epoch: 3, reason: 'aborted' }),
    ...transactions.map((transaction, index) => move(transaction, 4 + index)),
    createBye(session, { epoch: 8, reason: 'ended' }),
  ];
}

async function move(peer: Peer, cell: Cell, session: Session, transaction: Uint8Array) {
  const nextPublicKey = generateKeyPair().publicKey;
  const labels = labelsOf(cell, AWAY);
  return peer.say(AWAY, createMove(session, { epoch: 1, labels, transaction, nextPublicKey }));
}

const rowOf = ({ peer }: Peer, { id }: Cell) =>
  peer.list().find(({ cell }) => cell === Buffer.from(id).toString('hex'));

describe.skipIf(!hasIp)('whoever sends with the source address of another host', () => {
  test('moves, holds and follows nothing of that host, before it is announced', async () => {
    const { peer, victim, attacker, session, transaction } = await begin();
    const transactions = await claim(peer, attacker, victim);
    expect(rowOf(peer, attacker)).toMatchObject({ flows: 1 });
    for (const datagram of everything(session, labelsOf(victim, ATTACKER), [transaction, ...transactions])) {
      await peer.say(ATTACKER, datagram);
      expect(peer.peer.list().flatMap(({ flows }) => flows)).toEqual([1].slice(0, peer.peer.list().length));
    }
    for (const { local, remote } of victim.flows)
      expect(peer.peer.placeOf({ protocol: 'tcp', local: remote, remote: local, scope: 0 })).toBeUndefined();
  });

  test('takes nothing of what that host has announced: its move finds all its flows', async () => {
    const { peer, victim, attacker, session } = await begin();
    const transaction = newTransaction();
    const [welcome] = await peer.say(VICTIM, hello(victim, labelsOf(victim, AWAY), transaction));
    const transactions = await claim(peer, attacker, victim);
    expect(rowOf(peer, victim)).toMatchObject({ state: 'armed', flows: 2 });
    for (const datagram of everything(session, labelsOf(victim, ATTACKER), transactions))
      await peer.say(ATTACKER, datagram);
    await move(peer, victim, sessionOf(victim, peerKey(welcome)), transaction);
    expect(rowOf(peer, victim)).toMatchObject({ state: 'moved', flows: 2, wire: [AWAY] });
  });

  test('takes no claims of it, which a MOVE without an announcement needs', async () => {
    const { peer, victim, attacker } = await begin();
    const [welcome] = await peer.say(VICTIM, hello(victim, [], newTransaction(), true));
    await claim(peer, attacker, victim);
    await move(peer, victim, sessionOf(victim, peerKey(welcome)), newTransaction());
    expect(rowOf(peer, victim)).toMatchObject({ state: 'moved', flows: 2, wire: [AWAY] });
  });

  test('leaves nothing at the peer, with any number of cell ids of its own', async () => {
    const { peer, victim } = await begin();
    const before = peer.peer.list();
    for (let each = 0; each < 20; each++) {
      const made = await newCell(0, ATTACKER);
      await claim(peer, made, victim);
    }
    expect(peer.peer.list()).toEqual(before);
  });

  test('changes nothing of what that host has armed, with what it has seen of the announcement', async () => {
    const { peer, victim } = await begin();
    const transaction = newTransaction();
    const [welcome] = await peer.say(VICTIM, hello(victim, labelsOf(victim, AWAY), transaction));
    await peer.spoof(VICTIM, hello({ ...victim, flows: victim.flows.slice(1) }, labelsOf(victim, ATTACKER)));
    await peer.spoof(VICTIM, hello({ ...victim, keys: generateKeyPair() }, labelsOf(victim, ATTACKER)));
    await move(peer, victim, sessionOf(victim, peerKey(welcome)), transaction);
    expect(rowOf(peer, victim)).toMatchObject({ state: 'moved', flows: 2, wire: [AWAY] });
  });
});
