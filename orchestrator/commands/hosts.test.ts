import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { withHosts } from './hosts.ts';

const waits = [
  ['a wait of Node’s', (signal: AbortSignal) => sleep(10_000, undefined, { signal })],
  [
    'a look at the signal',
    async (signal: AbortSignal) => {
      await new Promise((resolve) => signal.addEventListener('abort', resolve, { once: true }));
      signal.throwIfAborted();
    },
  ],
] as const;

test.each(waits)('Ctrl-C during %s is an interruption, not a bug', async (_, wait) => {
  const ended = withHosts({}, (_hosts, signal) => {
    setImmediate(() => process.emit('SIGINT'));
    return wait(signal);
  });
  await expect(ended).rejects.toMatchObject({ code: 'INTERRUPTED' });
});
