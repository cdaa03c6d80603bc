import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { APART, type DrainCell, type DrainHost, placeCells, RATHER_APART } from './placement.ts';

const MIB = 1024 * 1024;
const cell = (name: string, imageMib = 10, more: Partial<DrainCell> = {}): DrainCell => ({
  id: name,
  name,
  labels: {},
  imageBytes: imageMib * MIB,
  refusals: {},
  ...more,
});
const host = (name: string, roomMib = 1000, more: Partial<DrainHost> = {}): DrainHost => ({
  name,
  roomBytes: roomMib * MIB,
  cells: [],
  ...more,
});
const db = { [APART]: 'db' };
const rather = { [RATHER_APART]: 'web' };

type Case = {
  what: string;
  cells: DrainCell[];
  hosts: DrainHost[];
  /** cell → host, or what is said of each host */
  expected: Record<string, string | Record<string, string>>;
};
const CASES: Case[] = [
  { what: 'no cells', cells: [], hosts: [host('b')], expected: {} },
  { what: 'no hosts', cells: [cell('x')], hosts: [], expected: { x: {} } },
  {
    what: 'most room first',
    cells: [cell('x')],
    hosts: [host('b', 500), host('c', 600)],
    expected: { x: 'c' },
  },
  {
    what: 'spread by what is left, the largest first',
    cells: [cell('s', 1), cell('l', 200), cell('m', 100)],
    hosts: [host('b', 1000), host('c', 950)],
    expected: { l: 'b', m: 'c', s: 'c' },
  },
  {
    what: 'the one named first, all else being the same',
    cells: [cell('x')],
    hosts: [host('c'), host('b')],
    expected: { x: 'c' },
  },
  {
    what: 'fewer cells, with the same room',
    cells: [cell('x')],
    hosts: [host('b', 100, { cells: [{ labels: {} }] }), host('c', 100)],
    expected: { x: 'c' },
  },
  {
    what: 'a host without room for image and memory',
    cells: [cell('x', 100)],
    hosts: [host('b', 263)],
    expected: { x: { b: '263 MiB free, 264 MiB needed' } },
  },
  { what: 'just enough room', cells: [cell('x', 100)], hosts: [host('b', 264)], expected: { x: 'b' } },
  {
    what: 'room that an earlier one has taken',
    cells: [cell('x', 100), cell('y', 100)],
    hosts: [host('b', 300)],
    expected: { x: 'b', y: { b: '200 MiB free, 264 MiB needed' } },
  },
  {
    what: 'what a preflight said',
    cells: [cell('x', 1, { refusals: { b: 'cpu: lacks avx512' } })],
    hosts: [host('b'), host('c', 100)],
    expected: { x: 'c' },
  },
  {
    what: 'closed hosts',
    cells: [cell('x')],
    hosts: [host('b', 1000, { closed: 'cordoned' })],
    expected: { x: { b: 'cordoned' } },
  },
  {
    what: 'never two of one anti-affinity',
    cells: [cell('x', 2, { labels: db }), cell('y', 1, { labels: db })],
    hosts: [host('b'), host('c', 1000, { cells: [{ labels: db }] })],
    expected: {
      x: 'b',
      y: { b: `another cell of ${APART}=db is there`, c: `another cell of ${APART}=db is there` },
    },
  },
  {
    what: 'another value of anti-affinity is no matter',
    cells: [cell('x', 2, { labels: { [APART]: 'queue' } })],
    hosts: [host('c', 1000, { cells: [{ labels: db }] })],
    expected: { x: 'c' },
  },
  {
    what: 'rather apart, with less room',
    cells: [cell('x', 2, { labels: rather })],
    hosts: [host('b', 1000, { cells: [{ labels: rather }] }), host('c', 100)],
    expected: { x: 'c' },
  },
  {
    what: 'rather apart, but together where it must be',
    cells: [cell('x', 2, { labels: rather })],
    hosts: [host('b', 1000, { cells: [{ labels: rather }] })],
    expected: { x: 'b' },
  },
];

describe('placeCells', () => {
  it.each(CASES)('$what', ({ cells, hosts, expected }) => {
    const { placed, unplaced } = placeCells(cells, hosts);
    expect({
      ...Object.fromEntries(placed.map(({ cell: { name }, to }) => [name, to])),
      ...Object.fromEntries(unplaced.map(({ cell: { name }, why }) => [name, why])),
    }).toEqual(expected);
  });

  it('says where cells that would rather be apart are together', () => {
    const hosts = [host('b', 1000, { cells: [{ labels: rather }] })];
    const [x] = placeCells([cell('x', 2, { labels: rather })], hosts).placed;
    expect(x?.notes).toEqual([`beside another of ${RATHER_APART}=web`]);
  });

  it('places each once or says why at every host, within room and apart, whatever comes', () => {
    const labels = fc.constantFrom({}, db, { [APART]: 'queue' }, rather);
    const cells = fc.array(fc.record({ mib: fc.integer({ min: 0, max: 200 }), labels }), { maxLength: 20 });
    const hosts = fc.array(fc.integer({ min: 0, max: 2000 }), { maxLength: 5 });
    fc.assert(
      fc.property(cells, hosts, (cellSpecs, rooms) => {
        const given = cellSpecs.map((spec, index) => cell(`x${index}`, spec.mib, { labels: spec.labels }));
        const there = rooms.map((room, index) => host(`h${index}`, room));
        const { placed, unplaced } = placeCells(given, there);
        expect(placed.length + unplaced.length).toBe(given.length);
        for (const { why } of unplaced) expect(Object.keys(why)).toHaveLength(there.length);
        for (const { name, roomBytes } of there) {
          const here = placed.filter(({ to }) => to === name).map((one) => one.cell);
          expect(here.reduce((sum, { imageBytes }) => sum + imageBytes, 0)).toBeLessThanOrEqual(roomBytes);
          const groups = here.flatMap((one) => one.labels[APART] ?? []);
          expect(new Set(groups).size).toBe(groups.length);
        }
      }),
    );
  });
});
