import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, onTestFinished, test } from 'vitest';
import { temporaryDirectory } from './test-support.ts';

const MODULE = fileURLToPath(new URL('./stdio.ts', import.meta.url));

/** The pipe as a process of its own, as SSH runs it, with what it says on either output. */
function startStdio(path: string) {
  const script = `import(${JSON.stringify(MODULE)}).then(({ runStdio }) => runStdio(${JSON.stringify(path)}))`;
  const child = spawn(process.execPath, ['--no-warnings', '-e', script]);
  onTestFinished(() => void child.kill('SIGKILL'));
  const out: Buffer[] = [];
  const err: Buffer[] = [];
  child.stdout.on('data', (chunk: Buffer) => out.push(chunk));
  child.stderr.on('data', (chunk: Buffer) => err.push(chunk));
  const closed = once(child, 'close').then(([status]) => status as number);
  return {
    stdin: child.stdin,
    out: () => Buffer.concat(out),
    err: () => Buffer.concat(err).toString(),
    closed,
  };
}

function listen(serve: (socket: Socket) => void): string {
  const path = join(temporaryDirectory(), 'agent.sock');
  const server = createServer({ allowHalfOpen: true }, serve).listen(path);
  onTestFinished(() => void server.close());
  return path;
}

test('bytes pass both ways, and all of them are out before it ends', async () => {
  const path = listen((socket) => socket.pipe(socket));
  const { stdin, out, closed } = startStdio(path);
  const bytes = Buffer.alloc(3_000_000, 'abcdefg');
  stdin.end(bytes);
  expect(await closed).toBe(0);
  expect(out().equals(bytes)).toBe(true);
});

test('the end of the input is told to the agent, which may answer once more', async () => {
  const path = listen((socket) => {
    socket.resume();
    socket.on('end', () => socket.end('goodbye'));
  });
  const { stdin, out, closed } = startStdio(path);
  stdin.end();
  expect(await closed).toBe(0);
  expect(out().toString()).toBe('goodbye');
});

test('an agent that goes away ends it', async () => {
  const { closed } = startStdio(listen((socket) => socket.destroy()));
  expect(await closed).toBe(0);
});

test('no agent: status 69 and what to do', async () => {
  const { closed, err } = startStdio(join(temporaryDirectory(), 'agent.sock'));
  expect(await closed).toBe(69);
  expect(err()).toContain('start it: osmosis agent');
});
