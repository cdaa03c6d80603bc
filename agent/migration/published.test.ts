import { expect, test, vi } from 'vitest';
import type { Publication } from '../cell/publication.ts';
import { type Cell, Registry } from '../cell/registry.ts';
import type { AgentContext } from '../context.ts';
import { startTicks } from '../proc/tree.ts';
import { temporaryDirectory } from '../test-support.ts';
import { changePublished } from './published.ts';

const published: Publication = {
  protocol: 'tcp',
  wire: { address: '10.77.2.2', port: 8080 },
  local: { address: '10.77.1.2', port: 7000 },
};

/** A published cell that is published no more; `meanwhile`: what happens to it. */
async function ending(meanwhile: (registry: Registry, cell: Cell) => void, dry_run = false) {
  const registry = new Registry(temporaryDirectory());
  const ticks = startTicks(process.pid) ?? 0;
  const init = { holder: 1, pid: process.pid, ticks };
  const link = { name: 'osm00000001', ifindex: 9, mac: '02:00:00:00:00:01' };
  const cell: Cell = {
    ...{ id: 'c0'.repeat(16), name: 'server', pid: process.pid, ticks, init, link, side: 5 },
    ...{ addresses: ['10.77.1.2'], labels: [], flows: [], peers: [], published: [published] },
  };
  registry.put(cell);
  const openings = { publish: vi.fn(), unpublish: vi.fn(async () => meanwhile(registry, cell)) };
  const specs = [{ port: 8080 }];
  const change = changePublished({ registry, openings } as unknown as AgentContext, {
    ...{ target: 'server', specs, end: true, dry_run },
  });
  return { registry, openings, change };
}

test('what is published is so no more', async () => {
  const { registry, change } = await ending(() => {});
  expect(await change).toEqual({ cell: 'server', changed: [published], published: [] });
  expect(registry.all()).toMatchObject([{ published: [] }]);
});

test('--dry-run changes nothing', async () => {
  const { registry, openings, change } = await ending(() => {}, true);
  expect(await change).toMatchObject({ changed: [published] });
  expect([openings.unpublish.mock.calls, registry.all()]).toMatchObject([[], [{ published: [published] }]]);
});

test('a cell that ends meanwhile is not brought back', async () => {
  const { registry, change } = await ending((all, { id }) => all.remove(id));
  await expect(change).rejects.toMatchObject({ code: 'NO_SUCH_TARGET' });
  expect(registry.all()).toEqual([]);
});
