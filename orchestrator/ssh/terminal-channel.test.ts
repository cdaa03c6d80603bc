import { EventEmitter } from 'node:events';
import { PassThrough } from 'node:stream';
import type { Client, ClientChannel } from 'ssh2';
import { expect, test } from 'vitest';
import { openTerminalChannel } from './terminal-channel.ts';

const OPTIONS = {
  cell: 'c'.repeat(32),
  size: { columns: 80, rows: 24 },
  kind: 'xterm',
  show: () => undefined,
};

/** A connection whose terminals end at once, with status 0. */
function connection(): Client {
  const client = new EventEmitter();
  const exec = (
    _command: string,
    _options: object,
    opened: (error: undefined, channel: ClientChannel) => void,
  ) => {
    const channel = Object.assign(new EventEmitter(), { stderr: new PassThrough() });
    opened(undefined, channel as unknown as ClientChannel);
    channel.emit('exit', 0);
    channel.emit('close');
  };
  return Object.assign(client, { exec }) as unknown as Client;
}

test('however often a terminal is shown over one connection, nothing of it stays', async () => {
  const client = connection();
  for (let times = 0; times < 3; times++) {
    const terminal = await openTerminalChannel(client, 'alpha', OPTIONS, () => undefined);
    await expect(terminal.done).resolves.toBe(0);
  }
  expect(client.listenerCount('close')).toBe(0);
});
