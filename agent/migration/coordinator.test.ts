import { expect, test, vi } from 'vitest';
import { Registry } from '../cell/registry.ts';
import type { AgentContext } from '../context.ts';
import { FakeSocket } from '../h2o/fake-socket.ts';
import { snapshotWith, temporaryDirectory } from '../test-support.ts';
import { Coordinator } from './coordinator.ts';

const ID = 'a0'.repeat(16);

function scene() {
  const directory = temporaryDirectory();
  const registry = new Registry(`${directory}/cells`);
  const journal = { begin: vi.fn(), ended: vi.fn(), turned: vi.fn() };
  const log = { error: vi.fn(), warn: vi.fn() };
  const context = {
    paths: { run: directory, state: directory },
    ...{ registry, journal, log, socket: new FakeSocket().asH2o() },
    labels: { take: vi.fn() },
    kept: { isAway: () => true },
    peerSide: { ownEnds: { isOwnLabel: () => false } },
    datapath: {},
    syncs: { keep: vi.fn(async () => {}) },
  } as unknown as AgentContext;
  const coordinator = new Coordinator(context, { isRegistered: () => false });
  const gone = new AbortController();
  return { registry, journal, log, coordinator, gone };
}

test('an orchestrator that goes while the destination waits for the last peer: it is confirmed once', async () => {
  const { journal, log, coordinator, gone } = scene();
  const migration = await coordinator.beginDestination(ID, { snapshot: snapshotWith() }, gone.signal);
  const waiting = Promise.withResolvers<{ silent: string[]; flip_ms: number[] }>();
  vi.spyOn(migration, 'stage', 'get').mockReturnValue('running');
  vi.spyOn(migration, 'rootPid').mockReturnValue(4711);
  const confirm = vi.spyOn(migration, 'confirm').mockReturnValue(waiting.promise);
  const confirmed = coordinator.confirmDestination(ID);
  gone.abort();
  waiting.resolve({ silent: [], flip_ms: [1] });
  expect(await confirmed).toEqual({ pid: 4711, silent: [], flip_ms: [1] });
  await new Promise((resolve) => setImmediate(resolve));
  const done = [confirm, journal.turned, journal.ended, log.error].map(({ mock }) => mock.calls.length);
  expect(done).toEqual([1, 1, 1, 0]);
});

test('an orchestrator that goes while the source is undone: its cell is let go once', async () => {
  const { registry, journal, coordinator, gone } = scene();
  const cell = registry.resolve(String(process.pid), 'server');
  const migration = coordinator.beginSource(ID, cell.id, gone.signal);
  const waiting = Promise.withResolvers<boolean>();
  const undo = vi.spyOn(migration, 'undo').mockReturnValue(waiting.promise);
  const aborted = coordinator.abortSource(ID);
  gone.abort();
  waiting.resolve(true);
  expect(await aborted).toBe(false);
  // Another one may have it from here on.
  registry.lock(cell.id);
  await new Promise((resolve) => setImmediate(resolve));
  expect([undo.mock.calls.length, journal.ended.mock.calls.length]).toEqual([1, 1]);
  expect(registry.isLocked(cell.id)).toBe(true);
});
