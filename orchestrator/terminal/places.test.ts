import { expect, test } from 'vitest';
import { parseFleet } from '../fleet/parse.ts';
import type { HostConnection } from '../ssh/host.ts';
import { Places } from './places.ts';

const FLEET = parseFleet(
  'hosts:\n  one: {ssh: "ssh://alpha.example"}\n  two: {ssh: "ssh://root@10.0.0.2:2222"}\n  three: {}\n',
  'f',
);
const places = new Places({
  fleet: FLEET,
  connect: () => Promise.reject(new Error('nobody')),
  agent: () => Promise.reject(new Error('nobody')),
  release: async () => undefined,
});

test('a cell is looked for where it was said to go, by whatever name, then everywhere', () => {
  expect(places.candidates({ name: '10.0.0.2:2222', hostname: 'beta' })).toEqual([
    'two',
    'ssh://10.0.0.2:2222',
    'ssh://beta',
    'local',
    'one',
    'three',
  ]);
  expect(places.candidates({ name: 'local', hostname: 'three' })).toEqual([
    'three',
    'ssh://three',
    'local',
    'one',
    'two',
  ]);
  expect(places.candidates(undefined)).toEqual(['local', 'one', 'two', 'three']);
});

test('a host that has no agent keeps no connection, however often it is asked', async () => {
  const open = new Set<HostConnection>();
  const silent = new Places({
    fleet: FLEET,
    connect: async () => {
      const connection = { name: 'one' } as HostConnection;
      open.add(connection);
      return connection;
    },
    agent: () => Promise.reject(new Error('refused')),
    release: async (connection) => void open.delete(connection),
  });
  const { signal } = new AbortController();
  for (let times = 0; times < 3; times++)
    await expect(silent.ask('one', 'notes', 0, signal)).rejects.toThrow('refused');
  expect(open.size).toBe(0);
});

test('where nobody answers, none is found, and all are named', async () => {
  const { signal } = new AbortController();
  await expect(places.find(['local', 'one'], 'notes', signal)).resolves.toBeUndefined();
  await expect(places.search('notes', signal)).rejects.toMatchObject({
    code: 'NO_SUCH_TARGET',
    message: expect.stringContaining('no answer: local, one, two, three'),
  });
});
