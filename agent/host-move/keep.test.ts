import { expect, test } from 'vitest';
import { Registry } from '../cell/registry.ts';
import type { AgentContext } from '../context.ts';
import { temporaryDirectory } from '../test-support.ts';
import { keep } from './keep.ts';

const PID = String(process.pid);
const ASK = { targets: [PID], end: false, dry_run: false };

function agent(goodbye: () => Promise<void> = async () => {}) {
  const registry = new Registry(temporaryDirectory());
  const context = { registry, byes: { say: goodbye } } as unknown as AgentContext;
  const peers = [{ peer: '10.77.4.2', flows: 1, away: 0, told: true, agent: true }];
  const say = (params: Partial<typeof ASK> & { name?: string }) =>
    keep(context, { describe: () => peers, leave: async () => [] }, { ...ASK, ...params });
  return { registry, peers, say };
}

test('a process is kept, under a name, and listed', async () => {
  const { registry, peers, say } = agent();
  const cells = [{ cell: 'db', pid: process.pid, kept: true, peers }];
  expect(await say({ name: 'db' })).toEqual({ cells });
  expect(registry.all()).toMatchObject([{ name: 'db', kept: true }]);
  expect(await say({ targets: [] })).toEqual({ cells });
  expect(await say({})).toEqual({ cells });
});

test('--dry-run changes nothing', async () => {
  const { registry, say } = agent();
  expect(await say({ dry_run: true })).toMatchObject({ cells: [{ kept: true }] });
  expect(registry.all()).toEqual([]);
});

test('what was adopted only to be kept is no cell any more when it is let go', async () => {
  const { registry, say } = agent();
  await say({ name: 'db' });
  expect(await say({ end: true, dry_run: true })).toMatchObject({ cells: [{ kept: false }] });
  expect(registry.all()).toMatchObject([{ kept: true }]);
  expect(await say({ targets: ['db'], end: true })).toMatchObject({ cells: [{ cell: 'db', kept: false }] });
  expect(registry.all()).toEqual([]);
});

test('a cell of osmosis run stays one', async () => {
  const { registry, say } = agent();
  const cell = registry.resolve(PID, 'web');
  registry.put({ ...cell, init: { holder: process.pid, pid: process.pid, ticks: cell.ticks } });
  await say({ end: true });
  expect(registry.all()).toMatchObject([{ name: 'web', kept: false }]);
  await say({});
  expect(registry.all()).toMatchObject([{ name: 'web', kept: true }]);
});

test('one target that is not there: none is kept', async () => {
  const { registry, say } = agent();
  await expect(say({ targets: [PID, 'nobody'] })).rejects.toMatchObject({ code: 'NO_SUCH_TARGET' });
  expect(registry.all()).toEqual([]);
});

test('a cell that is being moved is left alone', async () => {
  const { registry, say } = agent();
  await say({ name: 'db' });
  const [cell] = registry.all();
  registry.lock(cell?.id ?? '');
  await expect(say({ end: true })).rejects.toMatchObject({ code: 'BUSY' });
  expect(registry.all()).toMatchObject([{ kept: true }]);
});

test('no migration begins while the peers of one that is let go are told', async () => {
  const told = Promise.withResolvers<void>();
  const { registry, say } = agent(() => told.promise);
  await say({ name: 'db' });
  const [cell] = registry.all();
  if (cell === undefined) throw new Error('no cell');
  registry.keysWith(cell, '10.77.4.2');
  const ended = say({ end: true });
  expect(() => registry.lock(cell.id)).toThrow(expect.objectContaining({ code: 'BUSY' }));
  told.resolve();
  await ended;
  expect([registry.all(), registry.isLocked(cell.id)]).toEqual([[], false]);
});
