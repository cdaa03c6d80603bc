/** The peer side against real loopback connections of this process, a scripted cell and a datapath that takes notes. */
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { type AddressInfo, connect, createServer } from 'node:net';
import { execaSync } from 'execa';
import { describe, expect, onTestFinished, test, vi } from 'vitest';
import type { Flow } from '../address.ts';
import { Labels } from '../cell/labels.ts';
import type { Datapath } from '../datapath/datapath.ts';
import type { FlowId, RemoteHalf, Side } from '../datapath/model.ts';
import { temporaryDirectory } from '../test-support.ts';
import { encodeHello, newCellId, newTransaction, splitHello, type Welcome } from '../wire/h2o.ts';
import { H2O_PORT, isDrop, type Label } from '../wire/h2o-layout.ts';
import {
  createBye,
  createHold,
  createMove,
  deriveSession,
  generateKeyPair,
  type Session,
} from '../wire/h2o-session.ts';
import { claimsOf } from './cell-side.ts';
import { FakeSocket } from './fake-socket.ts';
import { PeerSide } from './peer-side.ts';

const HOME = '127.0.0.1';
const AWAY = '127.0.0.2';
const hasIp = !execaSync('ip', ['-Version'], { reject: false }).failed;
if (!hasIp) console.warn('SKIPPED: the peer side is not tested, this machine has no ip(8)');

/** What the peer side does to the datapath, in its order. */
class FakeDatapath {
  readonly calls: [string, ...unknown[]][] = [];
  fails = false;

  asDatapath(): Datapath {
    return this as unknown as Datapath;
  }

  names(): string[] {
    return this.calls.map(([name]) => name);
  }

  async #note(...call: [string, ...unknown[]]): Promise<void> {
    if (this.fails) throw new Error('the datapath fails');
    this.calls.push(call);
  }

  attachDevice = (name: string) => this.#note('attachDevice', name);
  putSide = (side: Side) => this.#note('putSide', side);
  removeSide = (id: number) => this.#note('removeSide', id);
  putRemotes = (halves: readonly RemoteHalf[]) => this.#note('putRemotes', halves);
  putLocals = async () => undefined;
  removeLocals = async () => undefined;
  removeRemotes = (ids: readonly FlowId[]) => this.#note('removeRemotes', ids);
  removeIfEmpty = () => this.#note('removeIfEmpty');
}

/** Connections of this process with a server of this process; as flows from the view of the server, which plays the cell. */
async function connectedFlows(count: number): Promise<Flow[]> {
  const server = createServer().listen(0, HOME);
  onTestFinished(() => void server.close());
  await once(server, 'listening');
  const local = { address: HOME, port: (server.address() as AddressInfo).port };
  const flows: Flow[] = [];
  for (let index = 0; index < count; index++) {
    const accepted = once(server, 'connection');
    const client = connect(local.port, HOME);
    onTestFinished(() => void client.destroy());
    await Promise.all([accepted, once(client, 'connect')]);
    flows.push({ protocol: 'tcp', local, remote: { address: HOME, port: client.localPort ?? 0 } });
  }
  return flows;
}

/** One host with a peer side, and one cell that talks to it. */
async function withPeer(flowCount = 2) {
  const flows = await connectedFlows(flowCount);
  const socket = new FakeSocket();
  const datapath = new FakeDatapath();
  const directory = temporaryDirectory();
  const log = { info: vi.fn(), warn: vi.fn() };
  const start = () => {
    const made = new PeerSide(
      socket.asH2o(),
      datapath.asDatapath(),
      directory,
      { all: () => [] },
      new Labels(),
      log,
    );
    made.start(() => false);
    onTestFinished(() => made.stop());
    return made;
  };
  const peer = start();
  const [local = { address: HOME, port: 0 }] = flows.map((flow) => flow.local);
  const labels: Label[] = [{ protocol: 'tcp', virtual: local, wire: { address: AWAY, port: 40_001 } }];
  /** What is sent in answer to `datagram`, and what was done to the datapath meanwhile. */
  const say = async (datagram: Uint8Array, from = HOME, port = H2O_PORT) => {
    socket.sent.length = 0;
    datapath.calls.length = 0;
    socket.receive(datagram, { address: from, port });
    await peer.stop();
    return socket.sent[0];
  };
  return { flows, socket, datapath, log, peer, labels, say, start };
}
type Peer = Awaited<ReturnType<typeof withPeer>>;

class FakeCell {
  readonly cell = newCellId();
  keys = generateKeyPair();
  epoch = 0;
  transaction = newTransaction();

  hello(flows: readonly Flow[], labels: readonly Label[] = []): Uint8Array {
    this.transaction = newTransaction();
    const [part, ...more] = splitHello({
      cell: this.cell,
      transaction: this.transaction,
      epoch: this.epoch,
      publicKey: this.keys.publicKey,
      claims: claimsOf(flows, labels),
    });
    if (part === undefined || more.length > 0) throw new Error('not one part');
    return encodeHello(part);
  }

  session(peerPublicKey: Uint8Array): Session {
    const { publicKey: cellPublicKey, secretKey } = this.keys;
    const pair = { cell: this.cell, epoch: this.epoch, cellPublicKey, peerPublicKey };
    const session = deriveSession({ ...pair, secretKey, role: 'cell' });
    if (isDrop(session)) throw new Error(session.drop);
    return session;
  }

  move(session: Session, labels: readonly Label[], epoch = 1): Uint8Array {
    this.keys = generateKeyPair();
    this.epoch = epoch;
    const { transaction } = this;
    return createMove(session, { epoch, transaction, nextPublicKey: this.keys.publicKey, labels });
  }
}

function welcomeOf(sent: { message: unknown } | undefined): Welcome {
  const message = sent?.message as Welcome | undefined;
  if (message?.type !== 'welcome') throw new Error('no WELCOME');
  return message;
}

async function arm(peer: Peer, cell: FakeCell): Promise<Session> {
  return cell.session(welcomeOf(await peer.say(cell.hello(peer.flows, peer.labels))).publicKey);
}

describe.skipIf(!hasIp)('peer side', () => {
  test('a HELLO from another port than that of agents is not answered', async () => {
    const peer = await withPeer();
    expect(await peer.say(new FakeCell().hello(peer.flows), HOME, H2O_PORT + 1)).toBeUndefined();
  });

  test('a HELLO from elsewhere than where its flows are may claim none of them, and leaves nothing', async () => {
    const peer = await withPeer();
    const welcome = welcomeOf(await peer.say(new FakeCell().hello(peer.flows, peer.labels), AWAY));
    expect(welcome).toMatchObject({ claimable: [false, false], publicKey: new Uint8Array(32) });
    expect([peer.datapath.calls, peer.peer.list()]).toEqual([[], []]);
  });

  test('a survey says which flows are here, keeps one key pair and leaves the datapath alone', async () => {
    const peer = await withPeer(1);
    const [flow] = peer.flows;
    const unknown: Flow[] = flow === undefined ? [] : [{ ...flow, remote: { address: HOME, port: 1 } }];
    const cell = new FakeCell();
    const first = welcomeOf(await peer.say(cell.hello([...peer.flows, ...unknown])));
    expect(first.claimable).toEqual([true, false]);
    expect(first.publicKey.some((byte) => byte !== 0)).toBe(true);
    expect(welcomeOf(await peer.say(cell.hello(peer.flows))).publicKey).toEqual(first.publicKey);
    expect(peer.datapath.calls).toEqual([]);
  });

  test('a UDP flow is here where a socket serves its port: for that peer, or for anybody', async () => {
    const peer = await withPeer(0);
    const [bound, connected] = [createSocket('udp4'), createSocket('udp4')];
    onTestFinished(() => [bound, connected].forEach((socket) => void socket.close()));
    bound.bind(0, HOME);
    connected.connect(9, HOME);
    await Promise.all([once(bound, 'listening'), once(connected, 'connect')]);
    const flow = (port: number, from: number): Flow => ({
      protocol: 'udp',
      local: { address: HOME, port: from },
      remote: { address: HOME, port },
    });
    const flows = [
      flow(bound.address().port, 1),
      flow(connected.address().port, 9),
      flow(connected.address().port, 1),
    ];
    const { claimable } = welcomeOf(await peer.say(new FakeCell().hello(flows)));
    // In the order of the claims, which are grouped.
    expect(claimable.filter(Boolean)).toHaveLength(2);
    const strange = welcomeOf(await peer.say(new FakeCell().hello(flows.slice(2))));
    expect(strange.claimable).toEqual([false]);
  });

  test('arming attaches, writes the side, then the flows with the old and the new place', async () => {
    const peer = await withPeer();
    const cell = new FakeCell();
    await arm(peer, cell);
    expect([...new Set(peer.datapath.names())]).toEqual(['attachDevice', 'putSide', 'putRemotes']);
    const [, [, side], [, entries]] = peer.datapath.calls.slice(-3) as [
      unknown,
      [string, Side],
      [string, RemoteHalf[]],
    ];
    expect(side).toMatchObject({ state: 'armed', active: 0, accept: 0b11, ifindex: 0 });
    expect(entries).toEqual(
      peer.flows.map(({ local, remote }) => ({
        protocol: 'tcp',
        local: remote,
        remote: local,
        wireRemote: [
          { endpoint: local, ifindex: 1 },
          { endpoint: { address: AWAY, port: 40_001 }, ifindex: 1 },
        ],
        remoteSide: side.id,
        scope: 0,
      })),
    );
    expect(peer.peer.list()).toMatchObject([{ state: 'armed', epoch: 0, flows: 2, wire: [HOME] }]);
  });

  test('a MOVE is one update of the side, and its replay the same ACK and nothing else', async () => {
    const peer = await withPeer(3);
    const cell = new FakeCell();
    const datagram = cell.move(await arm(peer, cell), peer.labels);
    const ack = await peer.say(datagram, AWAY);
    expect(peer.datapath.calls).toEqual([
      ['putSide', expect.objectContaining({ state: 'moved', active: 1, accept: 0b10 })],
    ]);
    expect(ack).toMatchObject({ address: AWAY, port: H2O_PORT, message: { type: 'ack' } });
    expect(peer.peer.list()).toMatchObject([{ state: 'moved', epoch: 1, flows: 3, wire: [AWAY] }]);
    expect((await peer.say(datagram, AWAY))?.datagram).toEqual(ack?.datagram);
    expect(peer.datapath.calls).toEqual([]);
  });

  test('what is not sealed by the cell does nothing', async () => {
    const peer = await withPeer();
    const cell = new FakeCell();
    const session = await arm(peer, cell);
    const forged = cell.move({ ...session, toPeer: new Uint8Array(32) }, peer.labels);
    const foreign = createHold({ ...session, cell: newCellId() }, 1);
    for (const datagram of [forged, foreign]) {
      expect(await peer.say(datagram)).toBeUndefined();
      expect(peer.datapath.calls).toEqual([]);
    }
    expect(peer.socket.drops).toEqual(['forged', 'session']);
    expect(peer.peer.list()).toMatchObject([{ state: 'armed' }]);
  });

  test('a flip that failed is not acknowledged, and is made when the MOVE comes again', async () => {
    const peer = await withPeer();
    const cell = new FakeCell();
    const datagram = cell.move(await arm(peer, cell), peer.labels);
    peer.datapath.fails = true;
    expect(await peer.say(datagram, AWAY)).toBeUndefined();
    expect(peer.log.warn).toHaveBeenCalledOnce();
    peer.datapath.fails = false;
    expect((await peer.say(datagram, AWAY))?.message.type).toBe('ack');
    expect(peer.datapath.names()).toEqual(['putSide']);
  });

  test('BYE takes back what was armed', async () => {
    const peer = await withPeer();
    const cell = new FakeCell();
    const session = await arm(peer, cell);
    const ack = await peer.say(createBye(session, { epoch: 1, reason: 'aborted' }));
    expect(ack?.message.type).toBe('ack');
    expect(peer.datapath.names()).toEqual(['removeRemotes', 'removeSide', 'removeIfEmpty']);
    expect(peer.datapath.calls[0]?.[1]).toHaveLength(2);
    expect(peer.peer.list()).toMatchObject([{ flows: 0 }]);
    // The next try is armed as the first one was.
    const again = await arm(peer, cell);
    expect(peer.datapath.names()).toContain('putRemotes');
    await peer.say(cell.move(again, peer.labels, 2), AWAY);
    expect(peer.peer.list()).toMatchObject([{ state: 'moved', epoch: 2, wire: [AWAY] }]);
  });

  test('HOLD stops what is sent to the cell', async () => {
    const peer = await withPeer();
    const session = await arm(peer, new FakeCell());
    await peer.say(createHold(session, 1));
    expect(peer.datapath.calls).toEqual([
      ['putSide', expect.objectContaining({ state: 'held', accept: 0b01 })],
    ]);
  });

  test('a suspended cell stays so while its next place is armed, and when that comes to nothing', async () => {
    const peer = await withPeer();
    const cell = new FakeCell();
    const session = await arm(peer, cell);
    await peer.say(createHold(session, 1));
    const again = await arm(peer, cell);
    const sides = () => peer.datapath.calls.filter(([name]) => name === 'putSide').map(([, side]) => side);
    expect(sides()).toEqual([expect.objectContaining({ state: 'held', accept: 0b11 })]);
    await peer.say(createBye(again, { epoch: 2, reason: 'aborted' }));
    expect(sides()).toEqual([expect.objectContaining({ state: 'held', accept: 0b01 })]);
    expect(peer.peer.list()).toMatchObject([{ flows: 2 }]);
    await peer.say(cell.move(again, peer.labels, 3), AWAY);
    expect(sides()).toEqual([expect.objectContaining({ state: 'moved', accept: 0b10 })]);
  });

  test('a cell that has moved is claimed from its new place, with its new key, by nobody else', async () => {
    const peer = await withPeer();
    const cell = new FakeCell();
    await peer.say(cell.move(await arm(peer, cell), peer.labels), AWAY);
    expect(welcomeOf(await peer.say(cell.hello(peer.flows), AWAY)).claimable).toEqual([true, true]);
    expect(welcomeOf(await peer.say(cell.hello(peer.flows), HOME)).claimable).toEqual([false, false]);
    for (const from of [HOME, AWAY])
      expect(welcomeOf(await peer.say(new FakeCell().hello(peer.flows), from)).claimable).toEqual([
        false,
        false,
      ]);
  });

  test('it moves on, and then back home', async () => {
    const peer = await withPeer();
    const cell = new FakeCell();
    await peer.say(cell.move(await arm(peer, cell), peer.labels), AWAY);
    for (const [epoch, from, to, active] of [
      [2, AWAY, '127.0.0.3', 0],
      [3, '127.0.0.3', HOME, 1],
    ] as const) {
      const labels = peer.labels.map((label) => ({ ...label, wire: { address: to, port: 40_000 + epoch } }));
      const { publicKey } = welcomeOf(await peer.say(cell.hello(peer.flows, labels), from));
      await peer.say(cell.move(cell.session(publicKey), labels, epoch), to);
      expect(peer.datapath.calls).toEqual([['putSide', expect.objectContaining({ state: 'moved', active })]]);
      expect(peer.peer.list()).toMatchObject([{ epoch, wire: [to] }]);
    }
  });

  test('an agent that was restarted in between goes on', async () => {
    const peer = await withPeer();
    const cell = new FakeCell();
    const session = await arm(peer, cell);
    await peer.peer.stop();
    const second = peer.start();
    const datagram = cell.move(session, peer.labels);
    peer.socket.sent.length = 0;
    peer.socket.receive(datagram, { address: AWAY, port: H2O_PORT });
    await second.stop();
    expect(second.list()).toMatchObject([{ state: 'moved', epoch: 1, flows: 2, wire: [AWAY] }]);
    const third = peer.start();
    expect(third.list()).toEqual(second.list());
  });
});
