import { expect, test } from 'vitest';
import type { FlowId } from '../datapath/model.ts';
import { keyOf } from '../datapath/table.ts';
import type { PeerRecord } from './peer-records.ts';
import { CELLS_MAX, CELLS_PER_SOURCE_MAX, FLOWS_PER_SOURCE_MAX, hasRoomFor, roomFor } from './room.ts';

const [ATTACKER, OTHER] = ['10.77.3.2', '10.77.1.2'];
const id: FlowId = {
  protocol: 'tcp',
  local: { address: '10.77.4.2', port: 80 },
  remote: { address: ATTACKER, port: 50_000 },
  scope: 0,
};

let sides = 0;
function recordOf(origin: string, flows: number, changes: Partial<PeerRecord> = {}): PeerRecord {
  const side = ++sides;
  const own = Array.from({ length: flows }, (_, index) => ({
    ...id,
    local: { ...id.local, port: 1 + index },
    remote: { address: origin, port: side },
  }));
  return {
    cell: String(side),
    state: undefined,
    side,
    origin,
    active: 0,
    flows: new Map(
      own.map((each) => [keyOf(each), { id: each, wireRemote: [undefined, undefined], missing: 0 }]),
    ),
    claims: new Map(),
    armedAt: undefined,
    plainAt: undefined,
    touchedAt: side,
    ...changes,
  };
}
const many = (count: number, origin: string, flows: number, changes?: Partial<PeerRecord>) =>
  Array.from({ length: count }, () => recordOf(origin, flows, changes));

test('there is room', () => {
  expect(roomFor([], OTHER)).toEqual({ isThere: true });
  expect(roomFor(many(CELLS_PER_SOURCE_MAX - 1, OTHER, 1), OTHER)).toEqual({ isThere: true });
});

test('whoever shows one cell id after the other displaces what it has shown itself, and nobody else is refused', () => {
  const flood = many(CELLS_PER_SOURCE_MAX, ATTACKER, 0);
  expect(roomFor(flood, ATTACKER)).toEqual({ isThere: true, displaces: flood[0] });
  expect(roomFor(flood, OTHER)).toEqual({ isThere: true });
  expect(roomFor(many(CELLS_PER_SOURCE_MAX, ATTACKER, 1), ATTACKER)).toEqual({ isThere: false });
});

test('where all is taken, the one of whoever has most that are of no use goes: armed or asked first, held later', () => {
  const from = (address: string, held?: number) =>
    many(CELLS_PER_SOURCE_MAX / 2, address, 0, { heldAt: held });
  const rightful = recordOf(OTHER, 0);
  const [held, asked] = [from(ATTACKER, 1), from(ATTACKER)];
  const rest = Array.from({ length: 3 }, (_, index) => many(CELLS_PER_SOURCE_MAX, `10.9.0.${index}`, 1));
  const all = [rightful, ...held, ...asked, ...rest.flat()];
  expect(all.length).toBeGreaterThan(CELLS_MAX);
  expect(roomFor(all, '10.77.2.2').displaces).toBe(asked[0]);
  const onlyHeld = [rightful, ...held, ...many(CELLS_PER_SOURCE_MAX / 2, ATTACKER, 1), ...rest.flat()];
  expect(roomFor(onlyHeld, '10.77.2.2').displaces).toBe(held[0]);
});

test('what has flows is never displaced', () => {
  const rest = Array.from({ length: 4 }, (_, index) => many(CELLS_PER_SOURCE_MAX, `10.9.0.${index}`, 1));
  expect(roomFor(rest.flat(), OTHER)).toEqual({ isThere: false });
});

test('one source has room for so many flows, of all its cells', () => {
  const first = recordOf(ATTACKER, FLOWS_PER_SOURCE_MAX - 1);
  const second = recordOf(ATTACKER, 0);
  const all = [first, second, recordOf(OTHER, 10)];
  const [one, two] = [4, 5].map((port) => ({ ...id, local: { ...id.local, port } }));
  if (one === undefined || two === undefined) throw new Error('no flow');
  expect(hasRoomFor(second, [one], all)).toBe(true);
  expect(hasRoomFor(second, [one, two], all)).toBe(false);
  expect(hasRoomFor(recordOf(OTHER, 0), [one, two], all)).toBe(true);
  // What it has already is nothing more.
  const its = [...first.flows.values()].map((flow) => flow.id);
  expect(hasRoomFor(first, its, all)).toBe(true);
});
