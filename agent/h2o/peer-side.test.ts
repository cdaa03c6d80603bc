/** The peer side against real loopback connections of this process, a scripted cell and a datapath that takes notes. */
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { execaSync } from 'execa';
import { describe, expect, onTestFinished, test, vi } from 'vitest';
import type { Flow } from '../address.ts';
import { Labels } from '../cell/labels.ts';
import type { Datapath } from '../datapath/datapath.ts';
import type { FlowId, RemoteHalf, Side } from '../datapath/model.ts';
import { connectedFlows, temporaryDirectory, trustOf } from '../test-support.ts';
import {
  decode,
  encodeHello,
  type Hello,
  newCellId,
  newTransaction,
  type Sealed,
  splitHello,
  type Welcome,
} from '../wire/h2o.ts';
import { isWelcomeGenuine, parseFingerprint } from '../wire/h2o-identity.ts';
import { H2O_PORT, isDrop, type Label } from '../wire/h2o-layout.ts';
import { PAIRS_PER_CELL_MAX } from '../wire/h2o-peer.ts';
import {
  createArm,
  createBye,
  createHold,
  createMove,
  deriveSession,
  generateKeyPair,
  open,
  type Session,
} from '../wire/h2o-session.ts';
import { claimsOf } from './cell-side.ts';
import { FakeSocket, withReceipt } from './fake-socket.ts';
import { PeerSide } from './peer-side.ts';

const HOME = '127.0.0.1';
const AWAY = '127.0.0.2';
const FURTHER = '127.0.0.3';
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
  hasRoom = () => false;
  putLocals = async () => undefined;
  expect = async () => undefined;
  removeLocals = async () => undefined;
  removeRemotes = (ids: readonly FlowId[]) => this.#note('removeRemotes', ids);
  removeIfEmpty = () => this.#note('removeIfEmpty');
}

/** One host with a peer side, and one cell that talks to it. */
async function withPeer(flowCount = 2) {
  const flows = await connectedFlows(flowCount);
  const socket = new FakeSocket();
  const datapath = new FakeDatapath();
  const directory = temporaryDirectory();
  const log = { info: vi.fn(), warn: vi.fn() };
  const trust = trustOf(log);
  const start = () => {
    const made = new PeerSide(
      socket.asH2o(),
      trust,
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
    const again = withReceipt(datagram, socket.sent[0]?.datagram);
    if (again === undefined) return socket.sent[0];
    socket.sent.length = 0;
    socket.receive(again, { address: from, port });
    await peer.stop();
    return socket.sent[0];
  };
  return { flows, socket, datapath, log, peer, trust, labels, say, start };
}
type Peer = Awaited<ReturnType<typeof withPeer>>;

class FakeCell {
  readonly cell = newCellId();
  keys = generateKeyPair();
  epoch = 0;
  transaction = newTransaction();
  readonly trust = trustOf();
  /** Asks the peer to keep its claims. */
  keeps = false;

  hello(flows: readonly Flow[], labels: readonly Label[] = []): Uint8Array {
    this.transaction = newTransaction();
    const { cell, transaction, epoch, keys } = this;
    const offer = { cell, transaction, epoch, publicKey: keys.publicKey };
    const signed = this.trust.offer(offer);
    const keeps = this.keeps ? ({ keeps: true } as const) : {};
    const receipt = new Uint8Array(16);
    const claims = claimsOf(flows, labels);
    const [part, ...more] = splitHello({ ...offer, ...signed, ...keeps, receipt, claims });
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

function helloOf(datagram: Uint8Array): Hello {
  const decoded = decode(datagram);
  if (isDrop(decoded) || decoded.message.type !== 'hello') throw new Error('no HELLO');
  return decoded.message;
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

  test('a HELLO from a link-local address is answered, and no more', async () => {
    const peer = await withPeer();
    const welcome = welcomeOf(await peer.say(new FakeCell().hello(peer.flows), 'fe80::1%eth0'));
    expect(welcome).toMatchObject({ claimable: [false, false], publicKey: new Uint8Array(32) });
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

  test('a HELLO of an earlier try that comes once more arms nothing, before and after the next one', async () => {
    const peer = await withPeer();
    const cell = new FakeCell();
    const old = cell.hello(peer.flows, peer.labels);
    const { publicKey } = welcomeOf(await peer.say(old));
    await peer.say(createBye(cell.session(publicKey), { epoch: 1, reason: 'aborted' }));
    const none = { claimable: [false, false], publicKey: new Uint8Array(32) };
    expect(welcomeOf(await peer.say(old))).toMatchObject(none);
    const labels = peer.labels.map((label) => ({ ...label, wire: { address: '127.0.0.3', port: 40_002 } }));
    const session = cell.session(welcomeOf(await peer.say(cell.hello(peer.flows, labels))).publicKey);
    expect(welcomeOf(await peer.say(old))).toMatchObject(none);
    expect(peer.datapath.calls).toEqual([]);
    await peer.say(cell.move(session, labels, 2), '127.0.0.3');
    expect(peer.peer.list()).toMatchObject([{ state: 'moved', epoch: 2, wire: ['127.0.0.3'] }]);
  });

  test('HOLD stops what is sent to the cell', async () => {
    const peer = await withPeer();
    const session = await arm(peer, new FakeCell());
    await peer.say(createHold(session, 1));
    expect(peer.datapath.calls).toEqual([
      ['putSide', expect.objectContaining({ state: 'held', accept: 0b01 })],
    ]);
  });

  describe('a cell that is suspended', () => {
    /** Announced where it is, and held with epoch 1. */
    async function suspended() {
      const peer = await withPeer();
      const cell = new FakeCell();
      const here = peer.labels.map((label) => ({ ...label, wire: label.virtual }));
      const welcome = welcomeOf(await peer.say(cell.hello(peer.flows, here)));
      const armed = peer.datapath.calls.at(-1)?.[1] as RemoteHalf[];
      const session = cell.session(welcome.publicKey);
      const hold = createHold(session, 1);
      const ack = await peer.say(hold);
      return { peer, cell, here, armed, session, hold, ack };
    }

    test('has its flows taken on where it is, and held; whoever has its image may ask again', async () => {
      const { peer, here, armed, session, hold, ack } = await suspended();
      const place = { endpoint: here[0]?.virtual, ifindex: 1 };
      expect(armed.map(({ wireRemote }) => wireRemote)).toEqual(peer.flows.map(() => [place, undefined]));
      expect(ack?.message.type).toBe('ack');
      expect(peer.peer.list()).toMatchObject([{ state: 'held', flows: 2 }]);
      expect((await peer.say(hold, AWAY))?.datagram).toEqual(ack?.datagram);
      expect(peer.datapath.calls).toEqual([]);
      expect((await peer.say(createHold(session, 2), AWAY))?.message.type).toBe('ack');
      expect(await peer.say(hold, AWAY)).toBeUndefined();
      expect(peer.socket.drops).toEqual(['stale']);
    });

    test('comes back by labels that nobody has armed, and an older copy does not', async () => {
      const { peer, cell, session } = await suspended();
      expect((await peer.say(cell.move(session, peer.labels, 3), AWAY))?.message.type).toBe('ack');
      expect(peer.datapath.names()).toEqual(['attachDevice', 'putRemotes', 'putSide']);
      expect(peer.peer.list()).toMatchObject([{ state: 'moved', epoch: 3, wire: [AWAY] }]);
      expect(await peer.say(createHold(session, 5), AWAY)).toBeUndefined();
      expect(peer.socket.drops).toEqual(['session']);
    });

    test('comes back by labels that are armed before: the MOVE is one update', async () => {
      const { peer, cell, here, armed, session, ack } = await suspended();
      const arming = { epoch: 2, part: 0, parts: 1, transaction: newTransaction(), labels: peer.labels };
      const datagram = createArm(session, arming);
      const answer = await peer.say(datagram, AWAY);
      expect(answer?.message).toMatchObject({ type: 'ack', epoch: 2 });
      const sides = peer.datapath.calls.filter(([name]) => name === 'putSide').map(([, side]) => side);
      expect(sides).toEqual([expect.objectContaining({ state: 'held', accept: 0b11 })]);
      const [, entries] = peer.datapath.calls.find(([name]) => name === 'putRemotes') ?? [];
      const there = { endpoint: { address: AWAY, port: 40_001 }, ifindex: 1 };
      expect((entries as RemoteHalf[]).map(({ wireRemote }) => wireRemote)).toEqual(
        armed.map(({ wireRemote }) => [wireRemote[0], there]),
      );
      expect((await peer.say(datagram, HOME))?.datagram).toEqual(answer?.datagram);
      expect(peer.datapath.calls).toEqual([]);
      // Whoever asks whether it waits still is answered as before.
      expect((await peer.say(createHold(session, 1), AWAY))?.datagram).toEqual(ack?.datagram);
      cell.transaction = arming.transaction;
      await peer.say(cell.move(session, peer.labels, 3), AWAY);
      expect(peer.datapath.calls).toEqual([
        ['putSide', expect.objectContaining({ state: 'moved', active: 1, accept: 0b10 })],
      ]);
      expect(await peer.say(datagram, AWAY)).toBeUndefined();
      expect(peer.socket.drops).toEqual(['session']);
      expect(here).toHaveLength(1);
    });

    test('what is armed for a resumption that comes to nothing is taken back, and it waits on', async () => {
      const { peer, cell, session } = await suspended();
      const arming = { epoch: 2, part: 0, parts: 1, transaction: newTransaction(), labels: peer.labels };
      await peer.say(createArm(session, arming), AWAY);
      await peer.say(createBye(session, { epoch: 3, reason: 'aborted' }), AWAY);
      expect(peer.peer.list()).toMatchObject([{ state: 'held', flows: 2 }]);
      expect(await peer.say(createArm(session, arming), AWAY)).toBeUndefined();
      expect(peer.socket.drops).toEqual(['stale']);
      expect((await peer.say(createHold(session, 257), AWAY))?.message.type).toBe('ack');
      await peer.say(createArm(session, { ...arming, epoch: 258, transaction: newTransaction() }), AWAY);
      await peer.say(cell.move(session, peer.labels, 259), AWAY);
      expect(peer.peer.list()).toMatchObject([{ state: 'moved', epoch: 259, wire: [AWAY] }]);
    });

    test('comes back to the place where it was', async () => {
      const { peer, cell, here, session } = await suspended();
      expect((await peer.say(cell.move(session, here, 3)))?.message.type).toBe('ack');
      const [, entries] = peer.datapath.calls.find(([name]) => name === 'putRemotes') ?? [];
      const place = { endpoint: here[0]?.virtual, ifindex: 1 };
      expect((entries as RemoteHalf[])[0]?.wireRemote).toEqual([undefined, place]);
      expect(peer.peer.list()).toMatchObject([{ state: 'home', wire: [HOME] }]);
    });
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

  test('a survey is answered with a signature of this host, over exactly that HELLO', async () => {
    const peer = await withPeer();
    const hello = new FakeCell().hello(peer.flows);
    const welcome = welcomeOf(await peer.say(hello));
    expect(isWelcomeGenuine(helloOf(hello), welcome)).toBe(true);
    expect(isWelcomeGenuine(helloOf(new FakeCell().hello(peer.flows)), welcome)).toBe(false);
  });

  test('a HELLO with a signature that does not fit is dropped, and leaves nothing', async () => {
    const peer = await withPeer();
    const hello = helloOf(new FakeCell().hello(peer.flows, peer.labels));
    const others = { signature: new Uint8Array(64).fill(1) };
    for (const forged of [
      others,
      { identity: peer.trust.offer(hello).identity },
      { publicKey: hello.identity },
    ])
      expect(await peer.say(encodeHello({ ...hello, ...forged }))).toBeUndefined();
    expect(peer.socket.drops).toEqual(['unsigned', 'unsigned', 'unsigned']);
    expect([peer.datapath.calls, peer.peer.list()]).toEqual([[], []]);
  });

  test('from where no flow is, no signature is looked at, and none is made', async () => {
    const peer = await withPeer();
    const hello = { ...helloOf(new FakeCell().hello(peer.flows)), signature: new Uint8Array(64) };
    const welcome = welcomeOf(await peer.say(encodeHello(hello), AWAY));
    expect(welcome.signature).toEqual(new Uint8Array(64));
    expect(peer.socket.drops).toEqual([]);
  });

  test('who sent a HELLO is known once it has sealed something, and not before', async () => {
    const peer = await withPeer();
    const cell = new FakeCell();
    const session = await arm(peer, cell);
    expect(peer.trust.known.all()).toEqual([]);
    await peer.say(cell.move({ ...session, toPeer: new Uint8Array(32) }, peer.labels), AWAY);
    expect(peer.trust.known.all()).toEqual([]);
    await peer.say(cell.move(session, peer.labels), AWAY);
    const { fingerprint } = cell.trust;
    expect(peer.trust.known.all()).toMatchObject([{ address: HOME, fingerprint, how: 'first-use' }]);
  });

  test('who claims from an address and reads nothing there is not known there, whatever it seals', async () => {
    const peer = await withPeer(3);
    const [, , other] = peer.flows;
    const its = peer.flows.slice(0, 2);
    const cell = new FakeCell();
    const session = cell.session(welcomeOf(await peer.say(cell.hello(its, peer.labels))).publicKey);
    await peer.say(cell.move(session, peer.labels), AWAY);
    peer.trust.known.revoke(cell.trust.fingerprint, false);
    peer.trust.known.pin([{ address: AWAY, fingerprint: cell.trust.fingerprint }], {
      replace: true,
      dryRun: false,
    });
    const { publicKey } = welcomeOf(await peer.say(cell.hello(its), AWAY));
    const spoofed = cell.hello(other === undefined ? [] : [other]);
    peer.socket.receive(spoofed, { address: HOME, port: H2O_PORT });
    expect((await peer.say(createHold(cell.session(publicKey), 2), AWAY))?.message.type).toBe('ack');
    expect(peer.trust.known.all().map(({ address }) => address)).toEqual([AWAY]);
  });

  test('a HELLO without a receipt is answered with one, not longer than it is, and nothing is looked at', async () => {
    const peer = await withPeer();
    const judged = vi.spyOn(peer.trust, 'admit');
    const hello = new FakeCell().hello(peer.flows, peer.labels);
    peer.socket.receive(hello, { address: HOME, port: H2O_PORT });
    // At once: it waits for nobody's turn.
    const [sent] = peer.socket.sent;
    expect(sent).toMatchObject({ address: HOME, port: H2O_PORT });
    expect(welcomeOf(sent).receipt).toHaveLength(16);
    expect(sent?.datagram.length).toBeLessThanOrEqual(hello.length);
    expect([peer.datapath.calls, peer.peer.list()]).toEqual([[], []]);
    expect(judged).not.toHaveBeenCalled();
  });

  test('whoever floods with the address of another, and shows no receipt, uses up nothing of what that one may ask', async () => {
    const peer = await withPeer();
    const cell = new FakeCell();
    const { receipt } = welcomeOf(await firstAnswer(peer, cell.hello(peer.flows)));
    const spoofed = helloOf(cell.hello(peer.flows.slice(1)));
    for (let each = 0; each < 2_000; each++)
      peer.socket.receive(encodeHello({ ...spoofed, transaction: newTransaction() }), {
        address: HOME,
        port: H2O_PORT,
      });
    peer.socket.sent.length = 0;
    const shown = { ...helloOf(cell.hello(peer.flows)), receipt: receipt ?? new Uint8Array(16) };
    expect(welcomeOf(await peer.say(encodeHello(shown))).claimable).toEqual([true, true]);
  });

  test('a host that a cell has moved to is known once the cell has been sealed away from there', async () => {
    const peer = await withPeer();
    const cell = new FakeCell();
    await peer.say(cell.move(await arm(peer, cell), peer.labels), AWAY);
    const { publicKey } = welcomeOf(await peer.say(cell.hello(peer.flows), AWAY));
    await peer.say(createHold(cell.session(publicKey), 2), AWAY);
    expect(peer.trust.known.all().map(({ address }) => address)).toEqual([HOME, AWAY]);
  });

  test('another identity at a known address is told so: nothing is armed, nothing kept, and it is counted', async () => {
    const peer = await withPeer();
    const known = new FakeCell().trust.fingerprint;
    peer.trust.known.see(HOME, known);
    const cell = new FakeCell();
    const hello = cell.hello(peer.flows, peer.labels);
    const welcome = welcomeOf(await peer.say(hello));
    expect(welcome).toMatchObject({ claimable: [false, false], publicKey: new Uint8Array(32) });
    expect(welcome.untrusted?.known).toEqual(parseFingerprint(known));
    expect(isWelcomeGenuine(helloOf(hello), welcome)).toBe(true);
    expect([peer.datapath.calls, peer.peer.list()]).toEqual([[], []]);
    await peer.say(hello);
    const { fingerprint } = cell.trust;
    expect(peer.trust.known.refused()).toMatchObject([
      { address: HOME, fingerprint, why: 'mismatch', count: 2 },
    ]);
    expect(peer.log.warn).toHaveBeenCalledOnce();
  });

  test('with the policy pinned, who is not pinned is told that none is known, and who is may claim', async () => {
    const peer = await withPeer();
    peer.trust.known.setPolicy('pinned');
    const cell = new FakeCell();
    const refused = welcomeOf(await peer.say(cell.hello(peer.flows, peer.labels)));
    expect(refused.untrusted?.known).toEqual(new Uint8Array(32));
    const pins = [{ address: HOME, fingerprint: cell.trust.fingerprint }];
    peer.trust.known.pin(pins, { replace: false, dryRun: false });
    expect(welcomeOf(await peer.say(cell.hello(peer.flows))).claimable).toEqual([true, true]);
  });

  test('a MOVE asks for no signature', async () => {
    const peer = await withPeer();
    const cell = new FakeCell();
    const datagram = cell.move(await arm(peer, cell), peer.labels);
    const spent = [vi.spyOn(peer.trust, 'admit'), vi.spyOn(peer.trust, 'answer')];
    expect((await peer.say(datagram, AWAY))?.message.type).toBe('ack');
    for (const each of spent) expect(each).not.toHaveBeenCalled();
  });

  test('what a pair has moved is claimable by that pair alone, under the same cell id as well', async () => {
    const peer = await withPeer();
    const cell = new FakeCell();
    const old = cell.keys;
    await peer.say(cell.move(await arm(peer, cell), peer.labels), AWAY);
    const { keys, epoch } = cell;
    for (const others of [old, generateKeyPair()]) {
      Object.assign(cell, { keys: others, epoch: 0 });
      const refused = welcomeOf(await peer.say(cell.hello(peer.flows, peer.labels), AWAY));
      expect(refused).toMatchObject({ claimable: [false, false], publicKey: new Uint8Array(32) });
    }
    Object.assign(cell, { keys, epoch });
    expect(welcomeOf(await peer.say(cell.hello(peer.flows), AWAY)).claimable).toEqual([true, true]);
  });

  test('who has read the id of a cell, and has flows of its own here, is not in the way of its first contact', async () => {
    const peer = await withPeer();
    const stranger = new FakeCell();
    const its = await connectedFlows(1, FURTHER);
    const labels = peer.labels.map((label) => ({ ...label, virtual: its[0]?.local ?? label.virtual }));
    // Moved already, with that id; and as many pairs as one source may have.
    const { publicKey } = welcomeOf(await peer.say(stranger.hello(its, labels), FURTHER));
    await peer.say(stranger.move(stranger.session(publicKey), labels), AWAY);
    for (let each = 0; each < PAIRS_PER_CELL_MAX; each++) {
      Object.assign(stranger, { keys: generateKeyPair(), epoch: 0 });
      await peer.say(stranger.hello(await connectedFlows(1, FURTHER)), FURTHER);
    }
    const cell = Object.assign(new FakeCell(), { cell: stranger.cell });
    await peer.say(cell.move(await arm(peer, cell), peer.labels), AWAY);
    expect(peer.peer.list()).toContainEqual(expect.objectContaining({ epoch: 1, flows: 2, wire: [AWAY] }));
  });

  describe('who is not trusted any more', () => {
    const distrusted: [string, (peer: Peer, cell: FakeCell) => void][] = [
      ['revoked', ({ trust }, cell) => void trust.known.revoke(cell.trust.fingerprint, false)],
      ['not pinned', ({ trust }) => trust.known.setPolicy('pinned')],
      [
        'not the one that is pinned',
        ({ trust }) =>
          void trust.known.pin([{ address: HOME, fingerprint: trustOf().fingerprint }], {
            replace: true,
            dryRun: false,
          }),
      ],
    ];

    test.each(distrusted)(
      '%s: what it has announced moves nothing, also after a restart',
      async (_, distrust) => {
        const peer = await withPeer();
        const cell = new FakeCell();
        const session = await arm(peer, cell);
        const datagrams = [createHold(session, 1), createBye(session, { epoch: 2, reason: 'ended' })];
        const move = cell.move(session, peer.labels, 3);
        distrust(peer, cell);
        await peer.peer.stop();
        const second = peer.start();
        for (const datagram of [...datagrams, move]) {
          peer.socket.sent.length = 0;
          peer.socket.receive(datagram, { address: AWAY, port: H2O_PORT });
          await second.stop();
          expect(peer.socket.sent).toEqual([]);
        }
        expect(new Set(peer.socket.drops)).toEqual(new Set(['untrusted']));
        expect(second.list()).toMatchObject([{ state: 'armed', epoch: 0, flows: 2, wire: [HOME] }]);
        expect(peer.trust.known.refused()).toMatchObject([{ address: HOME }]);
      },
    );

    test('it is undone at once, and what has moved before stays where it is', async () => {
      const peer = await withPeer();
      const [cell, moved] = [new FakeCell(), new FakeCell()];
      const [first, second] = peer.flows.map((flow) => [flow]);
      const wires = peer.labels;
      const told = async (one: FakeCell, flows: readonly Flow[] = [], from = HOME) =>
        one.session(welcomeOf(await peer.say(one.hello(flows, wires), from)).publicKey);
      const announced = await told(cell, first);
      await peer.say(moved.move(await told(moved, second), wires), AWAY);
      const again = await told(moved, second, AWAY);
      const isDropped = () => true;
      const facts = [
        { cell: Buffer.from(cell.cell).toString('hex'), address: HOME, flows: 1 },
        { cell: Buffer.from(moved.cell).toString('hex'), address: AWAY, flows: 1 },
      ];
      expect(await peer.peer.dropAnnounced(isDropped, true)).toEqual(facts);
      expect(peer.peer.list().map(({ state }) => state)).toEqual(['armed', 'armed']);
      peer.trust.known.revoke(moved.trust.fingerprint, false);
      expect(await peer.peer.dropAnnounced(isDropped, false)).toEqual(facts);
      expect(peer.peer.list()).toMatchObject([{ state: 'moved', epoch: 1, flows: 1, wire: [AWAY] }]);
      peer.socket.drops.length = 0;
      expect(await peer.say(cell.move(announced, wires), AWAY)).toBeUndefined();
      expect(await peer.say(moved.move(again, wires, 2), HOME)).toBeUndefined();
      expect(peer.socket.drops).toEqual(['session', 'untrusted']);
      // Trusted again, it goes on.
      const pins = [{ address: AWAY, fingerprint: moved.trust.fingerprint }];
      peer.trust.known.pin(pins, { replace: true, dryRun: false });
      const datagram = createHold(again, 3);
      expect((await peer.say(datagram, AWAY))?.message.type).toBe('ack');
      // What was acknowledged before is acknowledged again: whoever asked must come to an end.
      peer.trust.known.revoke(moved.trust.fingerprint, false);
      expect((await peer.say(datagram, AWAY))?.message.type).toBe('ack');
    });

    test('what it has claimed in the background is as good as before once it is trusted again', async () => {
      const peer = await withPeer();
      const cell = keptCell();
      const session = cell.session(welcomeOf(await peer.say(cell.hello(peer.flows))).publicKey);
      const { fingerprint } = cell.trust;
      peer.trust.known.revoke(fingerprint, false);
      expect(await peer.peer.dropAnnounced(() => true, false)).toMatchObject([{ address: HOME, flows: 2 }]);
      const move = cell.move(session, peer.labels);
      expect(await peer.say(move, AWAY)).toBeUndefined();
      peer.trust.known.pin([{ address: HOME, fingerprint }], { replace: true, dryRun: false });
      expect((await peer.say(move, AWAY))?.message.type).toBe('ack');
      expect(peer.peer.list()).toMatchObject([{ state: 'moved', flows: 2, wire: [AWAY] }]);
    });

    test('is not whoever was at an address that another host has now', async () => {
      const peer = await withPeer();
      const cell = new FakeCell();
      const session = await arm(peer, cell);
      peer.trust.known.see(HOME, trustOf().fingerprint);
      expect((await peer.say(cell.move(session, peer.labels), AWAY))?.message.type).toBe('ack');
    });
  });

  describe('a host that moves', () => {
    const to = (peer: Peer, address: string, port = 40_001) =>
      peer.labels.map((label) => ({ ...label, wire: { address, port } }));
    /** What was claimed and never armed. */
    async function claimed(peer: Peer, cell: FakeCell): Promise<Session> {
      return cell.session(welcomeOf(await peer.say(cell.hello(peer.flows))).publicKey);
    }

    test('a MOVE takes along what was only claimed, and the next one needs no HELLO', async () => {
      const peer = await withPeer();
      const cell = keptCell();
      const session = await claimed(peer, cell);
      const ack = await peer.say(cell.move(session, to(peer, AWAY)), AWAY);
      const done = peer.datapath.calls.filter(([name]) => name !== 'attachDevice');
      expect(done.map(([name]) => name)).toEqual(['putSide', 'putRemotes', 'putSide']);
      const entries = done[1]?.[1] as RemoteHalf[];
      expect(entries.map(({ wireRemote }) => wireRemote.map((slot) => slot?.endpoint))).toEqual(
        peer.flows.map(({ local }) => [local, { address: AWAY, port: 40_001 }]),
      );
      expect(done[2]?.[1]).toMatchObject({ state: 'moved', active: 1, accept: 0b10 });
      expect(peer.peer.list()).toMatchObject([{ state: 'moved', epoch: 1, flows: 2, wire: [AWAY] }]);
      const acknowledged = ack?.datagram && open(session, decodedOf(ack.datagram));
      if (!acknowledged || isDrop(acknowledged) || !('nextPublicKey' in acknowledged))
        throw new Error('no ACK');
      const next = cell.session(acknowledged.nextPublicKey);
      await peer.say(cell.move(next, to(peer, HOME, peer.labels[0]?.virtual.port), 2), HOME);
      expect(peer.peer.list()).toMatchObject([{ state: 'home', epoch: 2, flows: 2, wire: [HOME] }]);
    });

    test('what was only claimed may be armed first, in parts', async () => {
      const peer = await withPeer();
      const cell = keptCell();
      const session = await claimed(peer, cell);
      const labels = to(peer, AWAY);
      const transaction = newTransaction();
      const other = { ...labels[0], virtual: { address: HOME, port: 1 } } as Label;
      await peer.say(createArm(session, { epoch: 1, part: 1, parts: 2, transaction, labels: [other] }), AWAY);
      await peer.say(createArm(session, { epoch: 1, part: 0, parts: 2, transaction, labels }), AWAY);
      expect(peer.peer.list()).toMatchObject([{ state: 'armed', flows: 2 }]);
      cell.transaction = transaction;
      await peer.say(cell.move(session, [...labels, other], 2), AWAY);
      expect(peer.datapath.calls).toEqual([
        ['putSide', expect.objectContaining({ state: 'moved', active: 1, accept: 0b10 })],
      ]);
      expect(peer.peer.list()).toMatchObject([{ state: 'moved', epoch: 2, flows: 2, wire: [AWAY] }]);
    });

    test('what is claimed in passing, as by a plan, is not kept', async () => {
      const peer = await withPeer();
      await claimed(peer, new FakeCell());
      const second = peer.start();
      expect(second.list()).toEqual([]);
    });

    test('what it did not claim, or claimed from elsewhere, stays', async () => {
      const peer = await withPeer();
      const cell = keptCell();
      const session = cell.session(welcomeOf(await peer.say(cell.hello(peer.flows.slice(0, 1)))).publicKey);
      await peer.say(cell.hello(peer.flows), AWAY);
      await peer.say(cell.move(session, to(peer, AWAY)), AWAY);
      expect(peer.peer.list()).toMatchObject([{ flows: 1 }]);
    });

    test('a flow that another cell has moved with is not taken', async () => {
      const peer = await withPeer();
      const [cell, thief] = [keptCell(), keptCell()];
      const stolen = await claimed(peer, thief);
      await peer.say(cell.move(await claimed(peer, cell), to(peer, AWAY)), AWAY);
      await peer.say(thief.move(stolen, to(peer, '127.0.0.3')), '127.0.0.3');
      expect(peer.peer.list().map(({ flows }) => flows)).toEqual([0, 2]);
    });

    test('it is remembered by an agent that was restarted', async () => {
      const peer = await withPeer();
      const cell = keptCell();
      const session = await claimed(peer, cell);
      await peer.peer.stop();
      const second = peer.start();
      peer.socket.receive(cell.move(session, to(peer, AWAY)), { address: AWAY, port: H2O_PORT });
      await second.stop();
      expect(second.list()).toMatchObject([{ state: 'moved', epoch: 1, flows: 2, wire: [AWAY] }]);
    });

    test('a MOVE that failed half way is made whole when it comes again', async () => {
      const peer = await withPeer();
      const cell = keptCell();
      const datagram = cell.move(await claimed(peer, cell), to(peer, AWAY));
      peer.datapath.fails = true;
      expect(await peer.say(datagram, AWAY)).toBeUndefined();
      peer.datapath.fails = false;
      expect((await peer.say(datagram, AWAY))?.message.type).toBe('ack');
      expect(peer.datapath.calls.find(([name]) => name === 'putRemotes')?.[1]).toHaveLength(2);
    });
  });
});

async function firstAnswer(peer: Peer, hello: Uint8Array) {
  peer.socket.sent.length = 0;
  peer.socket.receive(hello, { address: HOME, port: H2O_PORT });
  await peer.peer.stop();
  return peer.socket.sent[0];
}

function keptCell(): FakeCell {
  return Object.assign(new FakeCell(), { keeps: true });
}

function decodedOf(datagram: Uint8Array): Sealed {
  const decoded = decode(datagram);
  if (isDrop(decoded) || decoded.message.type !== 'ack') throw new Error('no ACK');
  return decoded.message;
}
