import { expect, test } from 'vitest';
import { confirmed } from '../confirmation.ts';
import { discardedText } from './discard.ts';

const result = { ok: true as const, cell: 'cache', file: '/srv/cache', told: [], gone: [], unconfirmed: [] };

test('who was told, who had nothing to be told, and who has not answered', () => {
  expect(discardedText(result)).toBe(
    'Given up: cache will not come back. /srv/cache and its key are of no use any more: remove them.\n',
  );
  const text = discardedText({
    ...result,
    told: ['10.77.4.2'],
    gone: ['10.77.3.2'],
    unconfirmed: ['10.77.2.2'],
  });
  expect(text).toContain('10.77.4.2 has ended its connections with it.\n');
  expect(text).toContain('10.77.3.2 did not wait for it (any more).\n');
  expect(text).toContain('WARNING: 10.77.2.2 has not acknowledged yet');
});

test('without a terminal nothing is done unasked', async () => {
  await expect(confirmed('All of it ends.', { yes: true })).resolves.toBeUndefined();
  if (process.stdin.isTTY) return;
  await expect(confirmed('All of it ends.', { yes: false })).rejects.toMatchObject({ code: 'USAGE' });
});
