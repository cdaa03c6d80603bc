import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import type { AgentContext } from '../context.ts';
import { temporaryDirectory } from '../test-support.ts';
import { CellKeeper } from './keeper.ts';
import { type Cell, Registry } from './registry.ts';

const SWEEP_MS = 1_000;

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

/** A cell whose process has ended. */
function endedCell(name: string): Cell {
  const nowhere = { init: undefined, link: undefined, addresses: [], side: 0, labels: [], flows: [] };
  const peer = { address: '10.77.4.2', epoch: 0, last: 0, secretKey: new Uint8Array(32) };
  const peers = [{ ...peer, publicKey: new Uint8Array(32), peerPublicKey: undefined }];
  return { id: name.repeat(32), name, pid: process.pid, ticks: -1, ...nowhere, peers };
}

/** `say`: what is said to the peers of a cell that has ended. */
function keeperOf(say: (cell: string) => Promise<void>) {
  const registry = new Registry(temporaryDirectory());
  const nothing = async () => undefined;
  const context = {
    registry,
    byes: { say },
    datapath: { isRuled: false, removeLocals: nothing, removeIfEmpty: nothing },
    labels: { release: vi.fn() },
    openings: { close: nothing, look: nothing },
    terminals: { ended: vi.fn() },
    log: { info: vi.fn(), warn: vi.fn() },
  } as unknown as AgentContext;
  const keeper = new CellKeeper(context, vi.fn());
  keeper.start();
  return { registry, keeper };
}

test('what has ended is taken away, and its peers are told', async () => {
  const told: string[] = [];
  const { registry, keeper } = keeperOf(async (cell) => void told.push(cell));
  const cell = endedCell('a');
  registry.put(cell);
  await vi.advanceTimersByTimeAsync(SWEEP_MS);
  keeper.stop();
  expect([told, registry.all()]).toEqual([[cell.id], []]);
});

test('a cell that has moved away while another was taken away is nobody to say goodbye for', async () => {
  const told: string[] = [];
  const said = Promise.withResolvers<void>();
  const { registry, keeper } = keeperOf((cell) => {
    told.push(cell);
    return said.promise;
  });
  const [first, moved] = [endedCell('a'), endedCell('b')];
  for (const cell of [first, moved]) registry.put(cell);
  await vi.advanceTimersByTimeAsync(SWEEP_MS);
  registry.remove(moved.id);
  said.resolve();
  await vi.advanceTimersByTimeAsync(SWEEP_MS);
  keeper.stop();
  expect([told, registry.all()]).toEqual([[first.id], []]);
});
