import { expect, test, vi } from 'vitest';
import { temporaryDirectory } from '../test-support.ts';
import { HeldDatagrams } from './held-datagrams.ts';
import { PeerRecords } from './peer-records.ts';

const LOCAL = { address: '10.77.4.2', port: 51_000 };
const REMOTE = { address: '10.77.1.2', port: 53 };
const CELL = 'c0'.repeat(16);
const COUNTS = { came: 7, left: 5, late: 1 };

/** A datapath that has room for one side, or for none. */
function fakeDatapath(roomy = true) {
  const rooms = new Set<number>();
  const counts = vi.fn(async (side: number) => (rooms.delete(side) ? COUNTS : undefined));
  return {
    rooms,
    openRoom: vi.fn(async (side: number) => {
      if (roomy) rooms.add(side);
      return roomy;
    }),
    hasRoom: (side: number) => rooms.has(side),
    releaseRoom: counts,
  };
}

function held(protocol: 'tcp' | 'udp' = 'udp', roomy = true) {
  const records = new PeerRecords(temporaryDirectory());
  const record = records.create(CELL, undefined);
  if (record === undefined) throw new Error('no record');
  const slot = { endpoint: REMOTE, ifindex: 2 };
  const id = { protocol, local: LOCAL, remote: REMOTE, scope: 0 };
  records.take(record, { id, wireRemote: [slot, undefined], missing: 0 });
  const datapath = fakeDatapath(roomy);
  const log = { info: vi.fn(), warn: vi.fn() };
  const datagrams = new HeldDatagrams({ datapath, records, log });
  const later = vi.fn(async () => {});
  const hold = (udp: 'hold' | 'drop' = 'hold') => {
    record.heldAt = 1;
    datagrams.hold(record, udp, later);
  };
  const release = () => {
    record.heldAt = undefined;
    datagrams.release(record);
  };
  return { record, records, datapath, log, datagrams, later, hold, release };
}

test('what was prepared is used at once, and let out once the cell is back, with counts', async () => {
  const { record, datapath, log, datagrams, later, hold, release } = held();
  datagrams.prepare(record);
  await datagrams.idle();
  hold();
  expect(record.waits).toBe(true);
  release();
  await datagrams.idle();
  expect([record.waits, record.datagrams]).toEqual([undefined, COUNTS]);
  expect([later.mock.calls, datapath.rooms.size]).toEqual([[], 0]);
  expect(log.info).toHaveBeenCalledWith(expect.objectContaining({ lost: 2 }), expect.any(String));
});

test('what was not prepared comes later, unless the cell is back by then', async () => {
  const { record, datapath, datagrams, later, hold, release } = held();
  hold();
  expect(record.waits).toBeUndefined();
  await datagrams.idle();
  expect([record.waits, later.mock.calls.length]).toEqual([true, 1]);
  release();
  await datagrams.idle();
  hold();
  release();
  await datagrams.idle();
  expect([record.waits, later.mock.calls.length, datapath.rooms.size]).toEqual([undefined, 1, 0]);
});

test('held again while it is let out: a new room', async () => {
  const { record, datagrams, datapath, later, hold, release } = held();
  hold();
  await datagrams.idle();
  release();
  hold();
  expect(record.waits).toBeUndefined();
  await datagrams.idle();
  expect([record.waits, later.mock.calls.length, datapath.rooms.size]).toEqual([true, 2, 1]);
});

test('none where they are to be dropped, where there are none, or where there is no room', async () => {
  const dropped = held();
  dropped.datagrams.prepare(dropped.record);
  dropped.hold('drop');
  const tcp = held('tcp');
  tcp.datagrams.prepare(tcp.record);
  tcp.hold();
  const full = held('udp', false);
  full.hold();
  for (const { record, datagrams, datapath } of [dropped, tcp, full]) {
    await datagrams.idle();
    expect([record.waits, datapath.rooms.size]).toEqual([undefined, 0]);
  }
  expect(tcp.datapath.openRoom).not.toHaveBeenCalled();
  expect(full.log.warn).toHaveBeenCalled();
});

test('a failure is logged, and the next suspension tries anew', async () => {
  const { record, datapath, log, datagrams, hold, release } = held();
  datapath.openRoom.mockRejectedValueOnce(new Error('no veth'));
  hold();
  await datagrams.idle();
  expect([record.waits, log.warn.mock.calls.length]).toEqual([undefined, 1]);
  release();
  await datagrams.idle();
  hold();
  await datagrams.idle();
  expect(record.waits).toBe(true);
});

test('an agent that comes back lets out what the one before has not', async () => {
  const { record, records, datapath, log } = held();
  record.waits = true;
  datapath.rooms.add(record.side);
  const next = new HeldDatagrams({ datapath, records, log });
  next.resume();
  await next.idle();
  expect([record.waits, record.datagrams]).toEqual([undefined, COUNTS]);
});
