import { expect, test } from 'vitest';
import { idOf, relayEndText } from './relay-end.ts';

const ID = 'ab'.repeat(16);
const cell = {
  id: ID,
  name: 'redis',
  pid: 1,
  placement: {},
  command: '',
  home: false,
  flows: [],
  labels: [],
  peers: [],
};
const remote = { cell: 'cd'.repeat(16), epoch: 1, flows: 2, state: 'moved', wire: [], relays: [] };
const statuses = [{ cells: [cell], remote_cells: [remote, { ...remote, cell: '' as const }] }];

test('a cell is known by its name where it is, and by the start of its id', () => {
  expect(idOf('redis', statuses)).toBe(ID);
  expect(idOf('abababab', statuses)).toBe(ID);
  expect(idOf('cdcdcdcdcd', statuses)).toBe(remote.cell);
});

test.each(['', 'ab', 'nginx', 'ffffffff'])('%j is no cell', (name) => {
  expect(() => idOf(name, statuses)).toThrow('none of these hosts knows');
});

test('says what was ended, and who knows', () => {
  const fact = { cell: ID, peer: '10.77.5.2', flows: 3 };
  expect(relayEndText({ host: 'alpha', sockets: [], entries: [] }, false)).toBe('alpha: nothing is relayed');
  expect(relayEndText({ host: 'beta', sockets: [fact], entries: [fact] }, false).split('\n')).toEqual([
    'beta:',
    '  ended 3 connections of 10.77.5.2 with cell abababab: both ends see a reset',
    expect.stringContaining('with its next packet'),
  ]);
  expect(relayEndText({ host: 'beta', sockets: [fact], entries: [] }, true)).toContain('would end 3');
});
