import { expect, test } from 'vitest';
import { heldText } from './held-end.ts';

test('what ends, or would, with the start of the cell`s id and since when it was suspended', () => {
  const held = { cell: 'ab'.repeat(16), flows: 2, since: Date.UTC(2026, 10, 23) };
  expect(heldText('peer', [held], 'would end')).toBe(
    'peer: would end 2 connections with cell abababab, suspended since 2026-11-23T00:00:00.000Z',
  );
  expect(heldText('peer', [], 'ended')).toBe('peer: it waits for no such cell');
});
