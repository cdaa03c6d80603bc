import { describe, expect, it } from 'vitest';
import { OsmosisError } from '../../agent/error.ts';
import { APART, type DrainCell, type DrainHost } from './placement.ts';
import {
  beginDrain,
  type DrainEvent,
  type DrainState,
  decide,
  drainEnd,
  drainRows,
  reduceDrain,
  TRIES_MAX,
} from './state.ts';

const MIB = 1024 * 1024;
const cell = (name: string, labels = {}): DrainCell => ({
  id: name,
  name,
  labels,
  imageBytes: MIB,
  refusals: {},
});
const host = (name: string, roomMib = 1000): DrainHost => ({ name, roomBytes: roomMib * MIB, cells: [] });
const begin = (cells: string[], hosts = [host('b'), host('c', 900)], parallel = 2) =>
  beginDrain(
    cells.map((name) => cell(name)),
    hosts,
    parallel,
  );
const apply = (state: DrainState, ...events: DrainEvent[]) => events.reduce(reduceDrain, state);
const started = (name: string, to = 'b'): DrainEvent => ({ event: 'started', cell: name, to });
const moved = (name: string): DrainEvent => ({
  event: 'moved',
  cell: name,
  outcome: { flows: { moved: 3, relayed: 0, lost: 0 }, blackout_ms: 100, gap_ms: 110, unconfirmed: [] },
});
const failed = (name: string, error: OsmosisError): DrainEvent => ({ event: 'failed', cell: name, error });
const toStart = (state: DrainState) => decide(state).start.map(({ cell: { name }, to }) => `${name}→${to}`);
const error = (code: ConstructorParameters<typeof OsmosisError>[0], details = {}) =>
  new OsmosisError(code, `it was ${code}`, details);

describe('decide', () => {
  it('begins no more than may move at the same time', () => {
    const state = begin(['x', 'y', 'z']);
    expect(toStart(state)).toEqual(['x→b', 'y→b']);
    const one = apply(state, started('x'), started('y'));
    expect(decide(one)).toEqual({ start: [], unplaced: [], ended: false });
    expect(toStart(apply(one, moved('x')))).toEqual(['z→b']);
  });

  it('ends when nothing is left to do', () => {
    const state = apply(begin(['x']), started('x'), moved('x'));
    expect(decide(state)).toEqual({ start: [], unplaced: [], ended: true });
    expect(drainEnd(state)).toBe('done');
    expect(decide(begin([])).ended).toBe(true);
  });

  it('waits with what has no place while a move could give one back', () => {
    const pair = [cell('x', { [APART]: 'g' }), cell('y', { [APART]: 'g' })];
    const state = apply(beginDrain(pair, [host('b')], 2), started('x'));
    expect(decide(state)).toMatchObject({ start: [], unplaced: [], ended: false });
    const freed = apply(state, failed('x', error('DUMP_FAILED')));
    expect(toStart(freed)).toEqual(['y→b']);
    const taken = apply(state, moved('x'));
    expect(decide(taken).unplaced.map((one) => one.cell.name)).toEqual(['y']);
  });

  it('begins nothing after the deadline, and ends with what had begun', () => {
    const state = apply(begin(['x', 'y'], undefined, 1), started('x'), {
      event: 'stopping',
      why: 'deadline',
    });
    expect(decide(state)).toEqual({ start: [], unplaced: [], ended: false });
    const ended = apply(state, moved('x'), { event: 'stopping', why: 'stopped' });
    expect(decide(ended).ended).toBe(true);
    expect(drainEnd(ended)).toBe('deadline');
    expect(drainRows(ended).map((row) => row.state)).toEqual(['moved', 'waiting']);
  });
});

describe('a move that fails', () => {
  const moving = () => apply(begin(['x']), started('x'));

  it.each(['RESTORE_FAILED', 'NO_ROOM', 'SSH_UNREACHABLE', 'HOST_CORDONED', 'ABORTED'] as const)(
    '%s: goes elsewhere',
    (code) => {
      expect(toStart(apply(moving(), failed('x', error(code))))).toEqual(['x→c']);
    },
  );

  it.each(['FLOWS_CHANGED', 'PEER_SILENT'] as const)('%s: again, as before', (code) => {
    expect(toStart(apply(moving(), failed('x', error(code))))).toEqual(['x→b']);
  });

  it.each(['DUMP_FAILED', 'LEGACY_PEERS', 'PEER_UNTRUSTED'] as const)('%s: stays', (code) => {
    const state = apply(moving(), failed('x', error(code)));
    expect(decide(state).ended).toBe(true);
    expect(drainRows(state)).toEqual([{ cell: 'x', state: 'left', code, message: `it was ${code}` }]);
    expect(drainEnd(state)).toBe('refused');
  });

  it.each(['TARGET_EXITED', 'NO_SUCH_TARGET'] as const)('%s: nothing is left', (code) => {
    expect(drainEnd(apply(moving(), failed('x', error(code))))).toBe('done');
  });

  it('is the destination’s once it was decided', () => {
    const state = apply(moving(), failed('x', error('AGENT_UNREACHABLE', { owner: 'destination' })));
    expect(drainRows(state)).toMatchObject([
      { cell: 'x', state: 'moved', to: 'b', code: 'AGENT_UNREACHABLE' },
    ]);
    expect(drainEnd(state)).toBe('done');
  });

  it(`is tried ${TRIES_MAX} times, then no more`, () => {
    let state = begin(['x', 'y']);
    for (let tries = 0; tries < TRIES_MAX; tries++)
      state = apply(state, started('x'), failed('x', error('BUSY')));
    expect(toStart(state)).toEqual(['y→b']);
    expect(drainEnd(apply(state, started('y'), moved('y')))).toBe('left');
  });

  it('has no place left: says why, host by host', () => {
    let state = apply(moving(), failed('x', error('NO_ROOM')), started('x', 'c'), failed('x', error('CELL')));
    const [none] = decide(state).unplaced;
    expect(none?.why).toEqual({ b: 'it was NO_ROOM', c: 'it was CELL' });
    state = apply(state, { event: 'unplaced', cell: 'x', why: none?.why ?? {} });
    expect(drainRows(state)).toEqual([
      { cell: 'x', state: 'left', code: 'CELL', message: 'b: it was NO_ROOM; c: it was CELL' },
    ]);
  });
});

it('has the figures of a move in its row', () => {
  expect(drainRows(apply(begin(['x']), started('x'), moved('x')))).toEqual([
    {
      cell: 'x',
      state: 'moved',
      to: 'b',
      flows: { moved: 3, relayed: 0, lost: 0 },
      blackout_ms: 100,
      gap_ms: 110,
    },
  ]);
});
