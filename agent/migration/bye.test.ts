import { expect, test } from 'vitest';
import type { PeerKeys } from '../cell/registry.ts';
import { FakeSocket } from '../h2o/fake-socket.ts';
import { isDrop } from '../wire/h2o-layout.ts';
import { createAck, deriveSession, generateKeyPair } from '../wire/h2o-session.ts';
import { isByeOver, sayBye } from './bye.ts';

const PEER = '10.77.4.2';

test('nothing is announced anew until the last BYE is acknowledged, or the peer has another key', async () => {
  const socket = new FakeSocket();
  const cell = 'c0'.repeat(16);
  const peer = generateKeyPair();
  const keys: PeerKeys = {
    address: PEER,
    epoch: 0,
    last: 0,
    ...generateKeyPair(),
    peerPublicKey: peer.publicKey,
  };
  expect(await isByeOver(cell, keys, AbortSignal.timeout(5_000))).toBe(true);
  const said = sayBye(socket.asH2o(), cell, [keys], () => undefined);
  await expect(isByeOver(cell, keys, AbortSignal.timeout(50))).rejects.toThrow();
  const again = { ...keys, peerPublicKey: generateKeyPair().publicKey };
  expect(await isByeOver(cell, again, AbortSignal.timeout(5_000))).toBe(true);
  const { secretKey } = peer;
  const pair = { cell: new Uint8Array(Buffer.from(cell, 'hex')), epoch: 0, cellPublicKey: keys.publicKey };
  const session = deriveSession({ ...pair, peerPublicKey: peer.publicKey, secretKey, role: 'peer' });
  if (isDrop(session)) throw new Error(session.drop);
  const waiting = isByeOver(
    cell,
    { ...keys, peerPublicKey: peer.publicKey.slice() },
    AbortSignal.timeout(5_000),
  );
  const ack = createAck(session, { type: 'ack', epoch: 1, acknowledged: 'bye' });
  socket.receive(ack, { address: PEER, port: 18_018 });
  expect(await waiting).toBe(true);
  await said;
});
