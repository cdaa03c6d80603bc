/** For tests: a peer's agent without a network, and cells whose hosts say whatever a test makes them say, with real keys. */
import { expect, onTestFinished } from 'vitest';
import type { Flow } from '../address.ts';
import { Labels } from '../cell/labels.ts';
import type { Datapath } from '../datapath/datapath.ts';
import { connectedFlows, temporaryDirectory, trustOf } from '../test-support.ts';
import { decode, encodeHello, newCellId, newTransaction, type Sealed, splitHello } from '../wire/h2o.ts';
import { type Identity, identityOf, newIdentitySeed, signHello } from '../wire/h2o-identity.ts';
import { H2O_PORT, isDrop, type Label } from '../wire/h2o-layout.ts';
import { deriveSession, generateKeyPair, type KeyPair, type Session } from '../wire/h2o-session.ts';
import { claimsOf } from './cell-side.ts';
import { FakeSocket, withReceipt } from './fake-socket.ts';
import { PeerSide } from './peer-side.ts';

/** Of the agent of all cells that have none of their own. */
const IDENTITY = identityOf(newIdentitySeed());

/** A peer's agent whose datapath agrees to everything. */
export function startPeer() {
  const socket = new FakeSocket();
  const directory = temporaryDirectory();
  const agreed = async () => undefined;
  const datapath = new Proxy({}, { get: (_, name) => (name === 'isRuled' ? false : agreed) }) as Datapath;
  const log = { info: () => undefined, warn: () => undefined };
  const trust = trustOf();
  const peer = new PeerSide(socket.asH2o(), trust, datapath, directory, { all: () => [] }, new Labels(), log);
  peer.start(() => false);
  onTestFinished(() => peer.stop());
  const tell = async (from: string, datagrams: readonly Uint8Array[]) => {
    socket.sent.length = 0;
    for (const datagram of datagrams) socket.receive(datagram, { address: from, port: H2O_PORT });
    await peer.stop();
    return [...socket.sent];
  };
  /** What is answered to each of `datagrams`, by whoever reads what is sent to `from`. */
  const say = async (from: string, ...datagrams: Uint8Array[]) => {
    const answers = await tell(from, datagrams);
    const again = datagrams.map((datagram, index) => withReceipt(datagram, answers[index]?.datagram));
    const shown = again.flatMap((datagram) => datagram ?? []);
    return (shown.length > 0 ? await tell(from, shown) : answers).map(({ datagram }) => datagram);
  };
  /** What is answered goes to `from`, and whoever sends does not see it. */
  const spoof = async (from: string, datagram: Uint8Array) => void (await tell(from, [datagram]));
  return { peer, trust, socket, directory, say, spoof };
}

/** A cell, and what its host knows of its pair with the peer. */
export type Cell = {
  readonly id: Uint8Array;
  readonly flows: readonly Flow[];
  readonly keys: KeyPair;
  readonly epoch: number;
  /** Of its host's agent. */
  readonly identity: Identity;
};

/** Its flows are connections of this process with a server at `address`. */
export async function newCell(flows: number, address?: string, identity = IDENTITY): Promise<Cell> {
  const connected = await connectedFlows(flows, address);
  return { id: newCellId(), flows: connected, keys: generateKeyPair(), epoch: 0, identity };
}

/** The one endpoint of its own, at `address` after the move. */
export function labelsOf({ flows }: Cell, address: string): Label[] {
  const [first] = flows;
  if (first === undefined) return [];
  return [{ protocol: first.protocol, virtual: first.local, wire: { address, port: 40_001 } }];
}

export function hello(
  { id, flows, keys, epoch, identity }: Cell,
  labels: readonly Label[],
  transaction = newTransaction(),
  keeps = false,
): Uint8Array {
  const claims = claimsOf(flows, labels);
  const offer = { cell: id, transaction, epoch, publicKey: keys.publicKey, identity: identity.publicKey };
  const kept = keeps ? ({ keeps } as const) : {};
  const parts = splitHello({
    ...offer,
    ...kept,
    receipt: new Uint8Array(16),
    signature: signHello(identity, offer),
    claims,
  });
  expect(parts).toHaveLength(1);
  return encodeHello(parts[0] ?? expect.fail());
}

export function peerKey(welcome: Uint8Array | undefined): Uint8Array {
  const decoded = welcome === undefined ? expect.fail('no WELCOME') : decode(welcome);
  if (isDrop(decoded) || decoded.message.type !== 'welcome') return expect.fail('no WELCOME');
  return decoded.message.publicKey;
}

export function sessionOf({ id, keys, epoch }: Cell, peerPublicKey: Uint8Array): Session {
  const { secretKey, publicKey: cellPublicKey } = keys;
  const session = deriveSession({ cell: id, epoch, cellPublicKey, peerPublicKey, secretKey, role: 'cell' });
  return isDrop(session) ? expect.fail(session.drop) : session;
}

export function sealedOf(datagram: Uint8Array | undefined): Sealed {
  const decoded = datagram === undefined ? expect.fail('no answer') : decode(datagram);
  return isDrop(decoded) || !('tag' in decoded.message) ? expect.fail('not sealed') : decoded.message;
}
