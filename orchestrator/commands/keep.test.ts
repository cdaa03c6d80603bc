import { expect, test } from 'vitest';
import { keptText } from './keep.ts';

const peer = { peer: '10.77.4.2', agent: true, flows: 3, away: 0, told: true };
const cell = { cell: 'db-1a2b', pid: 4711, kept: true, peers: [peer] };

test('a cell and its peers', () => {
  const moved = { ...peer, peer: '10.77.2.2', flows: 1, away: 1 };
  const held = { ...moved, peer: '10.77.3.2', told: false };
  const legacy = { ...peer, peer: '10.77.5.2', agent: false, flows: 0 };
  expect(keptText([{ ...cell, peers: [peer, moved, held, legacy] }])).toBe(
    `db-1a2b (pid 4711) kept
  10.77.4.2: 3 connections
  10.77.2.2: 1 connection, 1 of them by another address now
  10.77.3.2: 1 connection, held until it acknowledges the new address
  10.77.5.2: no agent answers there, its connections end with this address
`,
  );
});

test('a cell that is let go, and one that would be kept', () => {
  expect(keptText([{ ...cell, kept: false }])).toBe('db-1a2b (pid 4711) not kept\n');
  expect(keptText([{ ...cell, peers: [] }], true)).toBe('db-1a2b (pid 4711) would be kept\n');
});

test('nothing', () => {
  expect(keptText([])).toContain('nothing is kept');
});
