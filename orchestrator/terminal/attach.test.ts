/** attach() with a host that answers as it is told. */
import { EventEmitter } from 'node:events';
import { expect, test } from 'vitest';
import { OsmosisError } from '../../agent/error.ts';
import { fakeHosts } from '../fake-agent.ts';
import type { HostConnection } from '../ssh/host.ts';
import { attach } from './attach.ts';
import { BLIND } from './fake-screen.ts';
import { Keyboard } from './keyboard.ts';
import { Places } from './places.ts';

const CELL = 'c'.repeat(32);
/** Tries beyond which nobody would wait for the test. */
const OPENS_MAX = 20;

test('a host that answers but gives no terminal is not asked for one for ever', async () => {
  const end = new AbortController();
  let opens = 0;
  const connection = {
    name: 'alpha',
    openTerminal: async () => {
      if (++opens > OPENS_MAX) end.abort();
      throw new OsmosisError(
        'SSH_UNREACHABLE',
        'alpha gives no terminal: Unable to request a pseudo-terminal',
      );
    },
  } as unknown as HostConnection;
  const agent = fakeHosts({
    'terminal.attach': (_, { signal }) =>
      new Promise((_resolve, reject) => signal?.addEventListener('abort', () => reject(signal.reason))),
    'terminal.left': async () => ({ forced: false }),
    'terminal.state': async () => ({
      state: 'here',
      cell: CELL,
      name: 'notes',
      terminal: { escape: 'C-\\' },
    }),
  }).source.control;
  const fleet = { file: undefined, hosts: [], drain: {} };
  const places = new Places({
    fleet,
    connect: async () => connection,
    agent: async () => agent,
    release: async () => undefined,
  });
  const first = await places.ask('alpha', CELL, 0, end.signal);
  const keyboard = new Keyboard(new EventEmitter() as never, () => undefined);
  const attached = attach(first, {
    places,
    screen: BLIND,
    keyboard,
    say: () => undefined,
    signal: end.signal,
  });
  await expect(attached).rejects.toMatchObject({
    code: 'SSH_UNREACHABLE',
    message: expect.stringContaining('gives no terminal'),
  });
});
