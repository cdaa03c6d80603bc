/** The loop against moves that end when the test says so. */
import { describe, expect, it } from 'vitest';
import type { DrainRecord } from '../../agent/control/drain-protocol.ts';
import { OsmosisError } from '../../agent/error.ts';
import type { AgentClient } from '../agent-client.ts';
import type { MigrationResult } from '../migrate.ts';
import { type DrainProgress, drain } from './drain.ts';
import { beginDrain, drainEnd, drainRows } from './state.ts';

const MIB = 1024 * 1024;
const MOVED = {
  flows: { moved: 1, relayed: 0, lost: 0 },
  blackout_ms: 5,
  gap_ms: 6,
  unconfirmed: [],
} as unknown as MigrationResult;

function start(names: string[], parallel = 2) {
  const records: DrainRecord[] = [];
  const events: DrainProgress[] = [];
  const moves: { cell: string; to: string; end: (how: OsmosisError | 'moved') => Promise<void> }[] = [];
  const stop = new AbortController();
  const cells = names.map((name) => ({ id: name, name, labels: {}, imageBytes: MIB, refusals: {} }));
  const hosts = ['b', 'c'].map((name) => ({ name, roomBytes: 1000 * MIB, cells: [] }));
  const source = {
    call: async (_: string, { drain: record }: { drain: DrainRecord }) => void records.push(record),
  };
  const done = drain({
    state: beginDrain(cells, hosts, parallel),
    source: source as unknown as AgentClient,
    record: { by: 'test', started: 1 },
    stop: stop.signal,
    emit: (event) => events.push(event),
    move: (cell, to) =>
      new Promise((resolve, reject) => {
        const end = async (how: OsmosisError | 'moved') => {
          if (how === 'moved') resolve(MOVED);
          else reject(how);
          await settle();
        };
        moves.push({ cell, to, end });
      }),
  });
  return { done, records, events, moves, stop };
}

/** Until all that can happen now has happened. */
const settle = () => new Promise((resolve) => setImmediate(resolve));

describe('drain', () => {
  it('moves all, so many at a time, and writes down how it goes', async () => {
    const { done, records, events, moves } = start(['x', 'y', 'z']);
    await settle();
    expect(moves.map(({ cell }) => cell)).toEqual(['x', 'y']);
    await moves[1]?.end('moved');
    expect(moves.map(({ cell }) => cell)).toEqual(['x', 'y', 'z']);
    await moves[0]?.end('moved');
    await moves[2]?.end('moved');
    const state = await done;
    expect(drainEnd(state)).toBe('done');
    expect(records[0]).toMatchObject({ state: 'running', by: 'test', started: 1 });
    expect(records.at(-1)).toMatchObject({ state: 'done', cells: drainRows(state) });
    expect(events.filter(({ event }) => event === 'move')).toHaveLength(6);
  });

  it('goes on elsewhere after a failure, and says that it failed', async () => {
    const { done, events, moves } = start(['x'], 1);
    await settle();
    await moves[0]?.end(new OsmosisError('RESTORE_FAILED', 'no'));
    expect(moves.map(({ to }) => to)).toEqual(['b', 'c']);
    await moves[1]?.end('moved');
    expect(drainEnd(await done)).toBe('done');
    expect(events).toContainEqual({
      event: 'move',
      cell: 'x',
      to: 'b',
      state: 'failed',
      code: 'RESTORE_FAILED',
      message: 'no',
    });
  });

  it('ends although a cell has no place', async () => {
    const { done, moves } = start(['x'], 1);
    await settle();
    await moves[0]?.end(new OsmosisError('NO_ROOM', 'full'));
    await moves[1]?.end(new OsmosisError('NO_ROOM', 'full too'));
    const state = await done;
    expect(drainRows(state)).toMatchObject([{ state: 'left', message: 'b: full; c: full too' }]);
  });

  it('when stopped waits for what has begun, and begins nothing more', async () => {
    const { done, moves, stop, records } = start(['x', 'y'], 1);
    await settle();
    stop.abort('deadline');
    await settle();
    expect(moves).toHaveLength(1);
    await moves[0]?.end('moved');
    expect(drainEnd(await done)).toBe('deadline');
    expect(records.at(-1)).toMatchObject({ state: 'deadline' });
    expect(moves).toHaveLength(1);
  });

  it('does nothing where it was stopped before', async () => {
    const { stop, ...rest } = start([]);
    expect(drainEnd(await rest.done)).toBe('done');
    stop.abort('stopped');
  });
});
