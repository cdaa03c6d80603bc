import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { connectHost } from './host.ts';

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'osmosis-local-'));
});
afterEach(() => rmSync(dir, { recursive: true }));

it('reaches the agent of this machine, and closes what it opened', async () => {
  const socketPath = join(dir, 'agent.sock');
  const server = createServer((socket) => socket.pipe(socket)).listen(socketPath);
  await once(server, 'listening');
  const host = await connectHost({ kind: 'local' }, { socketPath });
  expect(host.name).toBe('local');
  const stream = await host.openAgent();
  stream.write('hello');
  expect(String((await once(stream, 'data'))[0])).toBe('hello');
  const closed = once(stream, 'close');
  await host.close();
  await closed;
  server.close();
});

it('says how to start an agent that does not run', async () => {
  const host = await connectHost({ kind: 'local' }, { socketPath: join(dir, 'none.sock') });
  await expect(host.openAgent()).rejects.toMatchObject({
    code: 'AGENT_UNREACHABLE',
    message: expect.stringContaining('start it with: osmosis agent'),
  });
  await expect(host.openAgent(AbortSignal.abort())).rejects.toMatchObject({ code: 'INTERRUPTED' });
});
