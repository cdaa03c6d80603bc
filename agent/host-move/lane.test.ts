import { expect, onTestFinished, test, vi } from 'vitest';
import { Registry } from '../cell/registry.ts';
import type { Side } from '../datapath/model.ts';
import { FakeSocket } from '../h2o/fake-socket.ts';
import { eventually, temporaryDirectory } from '../test-support.ts';
import { createAck, deriveSession, generateKeyPair } from '../wire/h2o-session.ts';
import { Lane, type LaneRecord } from './lane.ts';
import type { KeptFlow } from './places.ts';

const PEER = '10.77.4.2';
const ROUTE = { device: 'eth0', ifindex: 2, source: '10.77.2.2', mtu: 1_500, isLocal: false };

function flow(): KeptFlow {
  const local = { address: '10.77.1.2', port: 53 };
  const wireLocal = { address: '10.77.2.2', port: 40_000 };
  const remote = { address: PEER, port: 51_000 };
  return { protocol: 'udp', local, remote, scope: 0, wireLocal, localSide: 0, via: 0, path: 0 };
}

/** A cell at home whose peer has its keys, and the lane between them. */
function scene() {
  const registry = new Registry(temporaryDirectory());
  registry.put(registry.resolve(String(process.pid), 'server'));
  const [cell] = registry.all();
  if (cell === undefined) throw new Error('no cell');
  const peerKeys = generateKeyPair();
  const keys = registry.keysWith(cell, PEER);
  keys.peerPublicKey = peerKeys.publicKey;
  const sides: Side['state'][] = [];
  const datapath = {
    locals: async () => [],
    moveLocals: vi.fn(async () => []),
    openRoom: async () => true,
    putLocals: async () => {},
    putSide: vi.fn(async ({ state }: Side) => void sides.push(state)),
    releaseRoom: vi.fn(async () => undefined),
    removeIfEmpty: async () => true,
    removeLocals: async () => {},
    removeSide: async () => {},
    removeWays: async () => {},
  };
  const socket = new FakeSocket();
  const records: { record: LaneRecord; sides: readonly string[] }[] = [];
  const settled = vi.fn();
  const lane = new Lane(
    {
      datapath,
      registry,
      socket: socket.asH2o(),
      log: { info: vi.fn(), warn: vi.fn() },
      save: (one) => void records.push({ record: one.record(), sides: [...sides] }),
      settled,
    },
    { cell: cell.id, peer: PEER },
  );
  onTestFinished(() => lane.close());
  const acknowledge = () => {
    const session = deriveSession({
      cell: Buffer.from(cell.id, 'hex'),
      epoch: 0,
      cellPublicKey: keys.publicKey,
      peerPublicKey: peerKeys.publicKey,
      secretKey: peerKeys.secretKey,
      role: 'peer',
    });
    if ('drop' in session) throw new Error(session.drop);
    const { publicKey: nextPublicKey } = generateKeyPair();
    const ack = createAck(session, { type: 'ack', acknowledged: 'move', epoch: keys.last, nextPublicKey });
    socket.receive(ack, { address: PEER, port: 18_018 });
  };
  return { cell, registry, datapath, socket, lane, records, sides, settled, acknowledge };
}

test('a peer is told, and datagrams wait until it has acknowledged', async () => {
  const { cell, lane, socket, sides, datapath, settled, acknowledge } = scene();
  await lane.move(cell, [flow()], ROUTE);
  expect([lane.isMoving, sides, socket.sent.map(({ message }) => message.type)]).toEqual([
    true,
    ['queued'],
    ['move'],
  ]);
  acknowledge();
  await eventually(() => expect(settled).toHaveBeenCalled());
  expect([sides, datapath.releaseRoom.mock.calls.length]).toEqual([['queued', 'home'], 1]);
});

test('what could not be begun lets out what waits, and is tried again', async () => {
  const { cell, lane, datapath, socket } = scene();
  datapath.moveLocals.mockRejectedValueOnce(new Error('the datapath fails'));
  await expect(lane.move(cell, [flow()], ROUTE)).rejects.toThrow('the datapath fails');
  expect([lane.isMoving, datapath.releaseRoom.mock.calls.length]).toEqual([false, 1]);
  await lane.move(cell, [flow()], ROUTE);
  expect(socket.sent).toHaveLength(1);
});

test('no migration can begin while it begins, and it does not begin while there is one', async () => {
  const { cell, registry, lane, datapath, socket } = scene();
  registry.lock(cell.id);
  await lane.move(cell, [flow()], ROUTE);
  expect([datapath.putSide.mock.calls, socket.sent, lane.isMoving]).toEqual([[], [], false]);
  registry.unlock(cell.id);
  const begun = lane.move(cell, [{ ...flow(), protocol: 'tcp' }], ROUTE);
  expect(lane.isMoving).toBe(true);
  await begun;
});

test('an agent that ends once the peer knows leaves no side that holds back what is said', async () => {
  const { cell, lane, records, settled, acknowledge } = scene();
  await lane.move(cell, [flow()], ROUTE);
  acknowledge();
  await eventually(() => expect(settled).toHaveBeenCalled());
  const done = records.filter(({ record }) => record.announcement === undefined);
  expect(done.map(({ sides }) => sides.at(-1))).toEqual(done.map(() => 'home'));
  expect(done).not.toEqual([]);
});
