import { expect, test } from 'vitest';
import { parseFleet } from '../fleet/fleet.ts';
import { Places } from './places.ts';

const FLEET = parseFleet(
  'hosts:\n  one: {ssh: "ssh://alpha.example"}\n  two: {ssh: "ssh://root@10.0.0.2:2222"}\n  three: {}\n',
  'f',
);
const places = new Places({
  fleet: FLEET,
  connect: () => Promise.reject(new Error('nobody')),
  agent: () => Promise.reject(new Error('nobody')),
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

test('where nobody answers, none is found, and all are named', async () => {
  const { signal } = new AbortController();
  await expect(places.find(['local', 'one'], 'notes', signal)).resolves.toBeUndefined();
  await expect(places.search('notes', signal)).rejects.toMatchObject({
    code: 'NO_SUCH_TARGET',
    message: expect.stringContaining('no answer: local, one, two, three'),
  });
});
