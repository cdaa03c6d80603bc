/** Who resumes asks the peers: one that waits, one that waits for another image, one that is not there. */
import { describe, expect, test } from 'vitest';
import { FakeSocket, withoutReceipt } from '../h2o/fake-socket.ts';
import { trustOf } from '../test-support.ts';
import { encodeWelcome, newTransaction } from '../wire/h2o.ts';
import { isDrop } from '../wire/h2o-layout.ts';
import { createAck, deriveSession, generateKeyPair, type Session } from '../wire/h2o-session.ts';
import { claim } from './claim.ts';

const WAITS = '10.0.0.1';
const OTHER = '10.0.0.2';
const GONE = '10.0.0.3';

function session(): Session {
  const [cell, peer] = [generateKeyPair(), generateKeyPair()];
  const made = deriveSession({
    cell: new Uint8Array(16).fill(1),
    epoch: 0,
    cellPublicKey: cell.publicKey,
    peerPublicKey: peer.publicKey,
    secretKey: cell.secretKey,
    role: 'cell',
  });
  if (isDrop(made)) throw new Error(made.drop);
  return made;
}

/** `lost`: so many of the first ACKs do not arrive. */
function network(keys: Session, lost = 0): FakeSocket {
  const socket = new FakeSocket();
  let acks = 0;
  socket.onSend(({ message, address }) => {
    const from = { address, port: 18_018 };
    if (message.type === 'hold' && address === WAITS && ++acks > lost)
      socket.receive(createAck(keys, { type: 'ack', epoch: message.epoch, acknowledged: 'hold' }), from);
    if (message.type === 'hello' && address !== GONE)
      socket.receive(
        encodeWelcome({
          ...withoutReceipt(message),
          type: 'welcome',
          // Who is not where a flow is is told nothing, and nothing is signed for that.
          publicKey: new Uint8Array(32),
          identity: new Uint8Array(32),
          signature: new Uint8Array(64),
          claimable: [false],
        }),
        from,
      );
  });
  return socket;
}

const NEVER = new AbortController().signal;

const voiceOf = (socket: FakeSocket) => ({ socket: socket.asH2o(), trust: trustOf() });

describe('claim', () => {
  test('tells those who wait from those who do not, and from those who are gone', async () => {
    const keys = session();
    const socket = network(keys);
    const asked = [WAITS, OTHER, GONE].map((peer) => ({
      peer,
      epoch: 7,
      transaction: newTransaction(),
      ...(peer === WAITS ? keys : session()),
    }));
    expect(await claim(voiceOf(socket), asked, NEVER)).toEqual([
      { peer: WAITS, answer: 'held' },
      { peer: OTHER, answer: 'other' },
      { peer: GONE, answer: 'silent' },
    ]);
    const holds = socket.sent.filter(({ message, address }) => message.type === 'hold' && address === OTHER);
    // The same datagram each time, whoever makes it.
    expect(new Set(holds.map(({ datagram }) => Buffer.from(datagram).toString('hex'))).size).toBe(1);
    // A HELLO tells nothing of the cell.
    for (const { message } of socket.sent)
      if (message.type === 'hello') expect(message.cell).not.toEqual(keys.cell);
    const sent = socket.sent.length;
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect([socket.sent.length, socket.listeners]).toEqual([sent, 0]);
  });

  test('a peer whose first answers are lost waits all the same', async () => {
    const keys = session();
    const asked = [{ peer: WAITS, epoch: 7, transaction: newTransaction(), ...keys }];
    expect(await claim(voiceOf(network(keys, 4)), asked, NEVER)).toEqual([{ peer: WAITS, answer: 'held' }]);
  });

  test('of a cell without peers nobody is asked', async () => {
    expect(await claim(voiceOf(new FakeSocket()), [], NEVER)).toEqual([]);
  });
});
