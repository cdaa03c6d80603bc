import { expect, test, vi } from 'vitest';
import type { Publication } from '../cell/publication.ts';
import { type Cell, Registry } from '../cell/registry.ts';
import { temporaryDirectory } from '../test-support.ts';
import { Entrances } from './entrances.ts';

const NEW = '10.77.6.2';
const published: Publication = {
  protocol: 'tcp',
  wire: { address: '10.77.2.2', port: 8080 },
  local: { address: '10.77.1.2', port: 7000 },
};
const moved: Publication = { ...published, wire: { ...published.wire, address: NEW } };
const here = { usable: new Set([NEW]), sourceTo: async () => NEW, isMoving: () => false };

/** A cell that is published at an address that this host has no longer. `publish`: at the new one. */
function scene(publish: () => Promise<void> = async () => {}) {
  const registry = new Registry(temporaryDirectory());
  const init = { holder: 1, pid: 2, ticks: 3 };
  const link = { name: 'osm00000001', ifindex: 9, mac: '02:00:00:00:00:01' };
  const place = { init, link, side: 5, addresses: ['10.77.1.2'] };
  const cell: Cell = {
    ...{ id: 'c0'.repeat(16), name: 'server', pid: 2, ticks: 3, ...place },
    ...{ labels: [], flows: [], peers: [], published: [published] },
  };
  registry.put(cell);
  const openings = { publish: vi.fn(publish), unpublish: vi.fn(async () => {}) };
  const log = { info: vi.fn(), warn: vi.fn() };
  const needs = { datapath: {}, openings, registry, log, retell: vi.fn() };
  return { registry, cell, openings, entrances: new Entrances(needs as never) };
}

test('what is published goes with the address of its host', async () => {
  const { registry, cell, openings, entrances } = scene();
  await entrances.follow(cell, here);
  expect(registry.get(cell.id)?.published).toEqual([moved]);
  expect(openings.unpublish.mock.calls).toEqual([[[published]]]);
});

test('a cell that goes meanwhile is not brought back', async () => {
  const { registry, cell, openings, entrances } = scene(async () => registry.remove(cell.id));
  await entrances.follow(cell, here);
  expect(registry.all()).toEqual([]);
  expect(openings.unpublish.mock.lastCall).toEqual([[moved]]);
});
