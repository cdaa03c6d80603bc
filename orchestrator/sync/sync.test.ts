/** Files of a move, against two scripted agents: when they are asked what, and what a failure leads to. */
import { describe, expect, test } from 'vitest';
import type { Method } from '../../agent/control/protocol.ts';
import { OsmosisError } from '../../agent/error.ts';
import { type Answers, fakeHosts } from '../fake-agent.ts';
import { type MigrationOptions, migrate } from '../migrate.ts';
import { syncRequest } from './sync.ts';

const what = {
  type: 'file',
  why: 'open',
  mode: 0o644,
  uid: 0,
  gid: 0,
  mtime: 0,
  size: 10,
  allocated: 10,
} as const;
const hash = 'aa';
const there = { type: 'file', mode: 0o644, uid: 0, gid: 0, size: 10, hash } as const;

const FILES: Answers = {
  'sync.list': async () => ({
    facts: ['/srv/new', '/srv/same', '/srv/other'].map((path) => ({ path, ...what })),
    notes: [],
    problems: [],
  }),
  'sync.compare': async () => ({
    found: [null, there, { ...there, hash: 'bb' }],
    places: [0, 0, 0],
    rooms: [{ path: '/', free_bytes: 1e12 }],
    extra: ['/srv/stale'],
    problems: [],
  }),
  'sync.hash': async ({ paths }) => ({ hashes: paths.map(() => hash) }),
  'sync.begin': async () => ({}),
  'sync.read': async ({ final }) => ({ files: final ? 0 : 1, bytes: final ? 3 : 10, unsteady: [] }),
  'sync.write': async () => ({ files: 1, bytes: 10 }),
  'sync.undo': async () => ({ left: [] }),
};

async function run(answers: Answers = {}, force = true, options: Partial<MigrationOptions> = {}) {
  const { source, destination, calls } = fakeHosts({ ...FILES, ...answers });
  const channels = { from: source.image, to: destination.image };
  const outcome = await migrate({
    ...{ target: '100', legacy: 'refuse', source, destination, emit: () => undefined },
    sync: { request: syncRequest(['/srv/data'], force), channels },
    signal: new AbortController().signal,
    ...options,
  }).then(
    (result) => ({ result, error: undefined }),
    (error: unknown) => ({ result: undefined, error: error as OsmosisError }),
  );
  return { calls, ...outcome };
}

const fail = async (): Promise<never> => {
  throw new OsmosisError('SYNC_FAILED', 'beta: it broke');
};

test('compared in the plan, copied before anything stands still, and what has changed once it does', async () => {
  const { calls, result } = await run();
  const order = calls.filter((method) => /^(sync|preflight|source|destination)/.test(method));
  const passes: Method[] = ['sync.read', 'sync.write', 'sync.read', 'sync.write'];
  expect(order.slice(0, 10)).toEqual([
    ...(['preflight', 'sync.list', 'sync.compare', 'sync.hash', 'sync.begin'] as const),
    ...passes,
    'source.prepare',
  ]);
  const late = order.slice(order.indexOf('source.freeze') + 1, order.indexOf('destination.restore'));
  expect(late).toEqual(['sync.read', 'sync.write']);
  expect(calls).not.toContain('sync.undo');
  expect(result?.synced).toMatchObject({ files: 2, bytes: 20, delta_bytes: 3 });
  expect(Object.keys(result?.phases ?? {}).slice(0, 3)).toEqual(['plan', 'sync', 'prepare']);
});

test('what the plan says is what the agents are told', async () => {
  const told: unknown[] = [];
  await run({
    preflight: async (params) => {
      expect(params.sync).toBe(true);
      return await fakeHosts().destination.control.call('preflight', params);
    },
    'sync.begin': async ({ sync: _id, ...begin }) => {
      told.push(begin);
      return {};
    },
    'sync.read': async ({ same, final }) => {
      told.push({ same, final });
      return { files: 0, bytes: 0, unsteady: [] };
    },
    'destination.prepare': async ({ sync }) => {
      expect(sync).toMatch(/^[0-9a-f]{32}$/);
      return { labels: [] };
    },
  });
  expect(told).toEqual([
    { trees: ['/srv/data'], replace: ['/srv/other'], remove: ['/srv/stale'], same: ['/srv/same'] },
    { same: ['/srv/same'], final: false },
    { same: [], final: false },
    { same: [], final: true },
  ]);
});

test('what differs is refused before anything is touched', async () => {
  const { calls, error } = await run({}, false);
  expect(error).toMatchObject({ code: 'PREFLIGHT', phase: 'plan', owner: 'source' });
  expect(error?.message).toContain('/srv/other');
  expect(calls).not.toContain('sync.begin');
  expect(calls).not.toContain('sync.undo');
});

describe('a failure before the commit takes back what was copied', () => {
  test.each<[Method, string]>([
    ['sync.begin', 'sync'],
    ['sync.write', 'sync'],
    ['sync.read', 'sync'],
    ['source.prepare', 'prepare'],
    ['source.freeze', 'freeze'],
    ['destination.restore', 'restore'],
  ])('of %s, in %s', async (method, phase) => {
    const { calls, error } = await run({ [method]: fail });
    expect(error).toMatchObject({ code: 'SYNC_FAILED', phase, owner: 'source' });
    expect(calls.at(-1)).toBe('sync.undo');
    expect(calls).not.toContain('source.commit');
  });

  test('and says what could not be taken back', async () => {
    const { error } = await run({
      'destination.restore': fail,
      'sync.undo': async () => ({ left: ['/srv/new: EBUSY'] }),
    });
    expect(error?.cleanup).toEqual(['files at the destination: /srv/new: EBUSY']);
    expect(error?.message).toContain('EBUSY');
  });
});

test('after the commit nothing is taken back', async () => {
  const { calls, error } = await run({ 'destination.confirm': fail });
  expect(error?.owner).toBe('destination');
  expect(calls).not.toContain('sync.undo');
});

test('another try of the move goes on with what has been copied', async () => {
  let times = 1;
  const { calls, result } = await run({
    'source.freeze': async () => {
      if (times-- > 0) throw new OsmosisError('FLOWS_CHANGED', 'alpha: 1 new connection.');
      return { sessions: [], dump_ms: 1 };
    },
  });
  expect(result?.ok).toBe(true);
  expect(calls.filter((method) => method === 'sync.list' || method === 'sync.begin')).toEqual([
    'sync.list',
    'sync.begin',
  ]);
  expect(calls.filter((method) => method === 'sync.read').length).toBe(5);
});

test('while much changes there are more passes, as long as each leaves less than half', async () => {
  const sizes = [100e6, 40e6, 15e6, 14e6, 1];
  const { result } = await run({
    'sync.read': async ({ final }) => ({ files: 1, bytes: final ? 7 : (sizes.shift() ?? 0), unsteady: [] }),
  });
  expect(sizes).toEqual([1]);
  expect(result?.synced).toMatchObject({ bytes: 169e6, delta_bytes: 7 });
});

test.each([['/'], ['/usr/share'], ['srv'], ['/var/lib/osmosis'], ['/srv/../etc']])(
  'no --sync-path %s',
  (path) => {
    expect(() => syncRequest([path], false)).toThrow(expect.objectContaining({ code: 'USAGE' }));
  },
);
