/** The client against the agent's own server, over a Unix socket. */
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { statSync } from 'node:fs';
import { connect, createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, onTestFinished, test, vi } from 'vitest';
import type { Method } from '../agent/control/protocol.ts';
import { METHODS } from '../agent/control/protocol.ts';
import { type Call, type Handlers, serveControl } from '../agent/control/server.ts';
import { OsmosisError } from '../agent/error.ts';
import { eventually, snapshotWith, temporaryDirectory } from '../agent/test-support.ts';
import {
  decodeMessage,
  encodeFrame,
  encodeMessage,
  FRAME_BYTES_MAX,
  type Frame,
} from '../agent/wire/frame.ts';
import { AgentClient } from './agent-client.ts';

const migration = 'ab'.repeat(16);
const log = { warn: vi.fn() };

/** Every handler refuses but those given. */
function handlersWith(given: Partial<Handlers>): Handlers {
  const refuse = async () => {
    throw new Error('not in this test');
  };
  const all = Object.fromEntries(Object.keys(METHODS).map((method) => [method, refuse])) as Record<
    Method,
    () => Promise<never>
  >;
  return { ...all, ...given };
}

async function serve(given: Partial<Handlers>): Promise<string> {
  const path = join(temporaryDirectory(), 'agent.sock');
  const server = await serveControl(path, handlersWith(given), log);
  onTestFinished(() => void server.close());
  return path;
}

async function rawClient(path: string): Promise<Socket> {
  const socket = connect(path);
  onTestFinished(() => void socket.destroy());
  await once(socket, 'connect');
  return socket;
}

async function clientOf(given: Partial<Handlers>): Promise<AgentClient> {
  return new AgentClient('alpha', await rawClient(await serve(given)));
}

/** Resolves with the reason once `signal` fires. */
const fired = (signal: AbortSignal) =>
  new Promise<unknown>((resolve) => signal.addEventListener('abort', () => resolve(signal.reason)));

/** A handler that goes on until its signal fires, and says so. */
function endless() {
  const calls: Call[] = [];
  const reasons: unknown[] = [];
  const handler = async (_params: unknown, call: Call): Promise<never> => {
    calls.push(call);
    reasons.push(await fired(call.signal));
    throw call.signal.reason;
  };
  return { calls, reasons, handler };
}

test('a call is answered, with its parameters checked and its bytes kept', async () => {
  const inspect = vi.fn<Handlers['inspect']>(async () => snapshotWith());
  const client = await clientOf({ inspect });
  expect(await client.call('inspect', { target: '12' })).toEqual(snapshotWith());
  expect(inspect.mock.calls[0]?.[0]).toEqual({ target: '12' });
});

test('many calls at once are answered each with its own', async () => {
  const client = await clientOf({
    run: async ({ name, argv }) => {
      await sleep(argv.length);
      return { cell: name ?? '', pid: argv.length, io_uring: 'denied', mptcp: 'off' };
    },
  });
  const answers = await Promise.all(
    Array.from({ length: 20 }, (_, index) =>
      client.call('run', {
        name: `c${index}`,
        argv: new Array(21 - index).fill('x'),
        cwd: '/',
        env: [],
        as_is: false,
      }),
    ),
  );
  expect(answers.map(({ cell }) => cell)).toEqual(answers.map((_, index) => `c${index}`));
});

test('an error keeps code, phase, owner and clean-up, and names the host', async () => {
  const client = await clientOf({
    'source.commit': async () => {
      throw new OsmosisError('ABORTED', 'too late', { phase: 'commit', owner: 'source', cleanup: ['left'] });
    },
  });
  await expect(client.call('source.commit', { migration })).rejects.toMatchObject({
    code: 'ABORTED',
    message: 'alpha: too late',
    phase: 'commit',
    owner: 'source',
    cleanup: ['left'],
  });
});

test('a stranger among the errors is INTERNAL, an unknown method or bad parameters AGENT_PROTOCOL', async () => {
  const path = await serve({});
  const client = new AgentClient('alpha', await rawClient(path));
  await expect(client.call('status', {})).rejects.toMatchObject({ code: 'INTERNAL' });
  await expect(client.call('source.commit', { migration: 'x' })).rejects.toMatchObject({
    code: 'AGENT_PROTOCOL',
    message: expect.stringContaining('source.commit: parameters refused'),
  });
  const raw = await rawClient(path);
  raw.write(encodeMessage('request', { id: 1, method: 'toString', params: {} }));
  const [answer] = (await once(raw, 'data')) as [Buffer];
  expect(answer.toString('latin1')).toContain('AGENT_PROTOCOL');
});

test('a result of another form is AGENT_PROTOCOL', async () => {
  const client = await clientOf({ 'image.write': async () => ({ bytes: 1.5 }) });
  await expect(client.call('image.write', { migration })).rejects.toMatchObject({ code: 'AGENT_PROTOCOL' });
});

test('cancelling answers INTERRUPTED at once and aborts the handler; the channel goes on', async () => {
  const { handler, reasons } = endless();
  const client = await clientOf({ 'source.freeze': handler, 'source.confirm': async () => ({}) });
  const abort = new AbortController();
  const call = client.call('source.freeze', { migration }, { signal: abort.signal });
  setTimeout(() => abort.abort(), 20);
  await expect(call).rejects.toMatchObject({ code: 'INTERRUPTED' });
  expect(await client.call('source.confirm', { migration })).toEqual({});
  expect(reasons).toEqual([expect.objectContaining({ code: 'INTERRUPTED' })]);
});

test('without an answer in time the call is TIMEOUT, and the handler is aborted', async () => {
  const { handler, reasons } = endless();
  const client = await clientOf({ 'source.freeze': handler });
  const call = client.call('source.freeze', { migration }, { timeoutMs: 20 });
  await expect(call).rejects.toMatchObject({ code: 'TIMEOUT' });
  await eventually(() => expect(reasons.length).toBe(1));
});

test('a signal that has fired already calls nothing', async () => {
  const status = vi.fn<Handlers['status']>();
  const client = await clientOf({ status });
  await expect(client.call('status', {}, { signal: AbortSignal.abort() })).rejects.toThrow();
  expect(status).not.toHaveBeenCalled();
});

test('a client that is gone fires gone and signal', async () => {
  const { handler, calls, reasons } = endless();
  const client = await clientOf({ 'source.prepare': handler });
  const call = client.call('source.prepare', {
    migration,
    target: '1',
    cell: migration,
    drop: [],
    relay: [],
    key: randomBytes(32),
  });
  const lost = expect(call).rejects.toMatchObject({ code: 'AGENT_UNREACHABLE' });
  await eventually(() => expect(calls.length).toBe(1));
  client.close();
  await lost;
  await eventually(() => expect(reasons.length).toBe(1));
  expect(calls[0]?.gone.aborted).toBe(true);
});

test('gone fires for a call that was answered long ago', async () => {
  const gone: AbortSignal[] = [];
  const client = await clientOf({
    'source.arm': async (_params, call) => {
      gone.push(call.gone);
      return {};
    },
  });
  await client.call('source.arm', { migration, labels: [] });
  expect(gone[0]?.aborted).toBe(false);
  client.close();
  await eventually(() => expect(gone[0]?.aborted).toBe(true));
});

test('an agent that is gone fails what waits and what comes after', async () => {
  const path = join(temporaryDirectory(), 'agent.sock');
  const server = createServer((socket) => socket.once('data', () => socket.destroy())).listen(path);
  onTestFinished(() => void server.close());
  const client = new AgentClient('alpha', await rawClient(path));
  await expect(client.call('status', {})).rejects.toMatchObject({ code: 'AGENT_UNREACHABLE' });
  await expect(client.call('status', {})).rejects.toMatchObject({ code: 'AGENT_UNREACHABLE' });
});

test('whoever does not speak the protocol is dropped, at either end', async () => {
  const raw = await rawClient(await serve({}));
  raw.write('GET / HTTP/1.0\r\n\r\n');
  await once(raw, 'close');
  expect(log.warn).toHaveBeenCalled();

  const path = join(temporaryDirectory(), 'agent.sock');
  const server = createServer((socket) => socket.end('HTTP/1.0 400 Bad Request\r\n')).listen(path);
  onTestFinished(() => void server.close());
  const client = new AgentClient('alpha', await rawClient(path));
  await expect(client.call('status', {})).rejects.toMatchObject({ code: 'AGENT_UNREACHABLE' });
});

test('the socket is for root only, and an old one is replaced', async () => {
  const path = await serve({});
  expect(statSync(path).mode & 0o777).toBe(0o600);
  const again = await serveControl(path, handlersWith({}), log);
  expect(again.listening).toBe(true);
  again.close();
});

const PIECE_BYTES = 256 * 1024;
const PIECES = 64;

test('an image from the agent comes in order, and no faster than it is taken', async () => {
  let sent = 0;
  const client = await clientOf({
    'image.read': async (_params, { sendData, sendEnd }) => {
      for (let index = 0; index < PIECES; index++) {
        await sendData(Buffer.alloc(PIECE_BYTES, index));
        sent++;
      }
      sendEnd({ bytes: PIECES * PIECE_BYTES });
      return {};
    },
  });
  const got: number[] = [];
  let end: unknown;
  let release = () => {};
  const held = new Promise<void>((resolve) => {
    release = resolve;
  });
  client.receiveImage(async (frame: Frame) => {
    if (frame.kind === 'end') end = decodeMessage(frame);
    else got.push(frame.body[0] ?? -1);
    await held;
  });
  const call = client.call('image.read', { migration });
  await sleep(100);
  expect(sent).toBeLessThan(PIECES / 2);
  release();
  await call;
  expect(got).toEqual(Array.from({ length: PIECES }, (_, index) => index));
  expect(end).toEqual({ bytes: PIECES * PIECE_BYTES });
});

/** Reads the image as the agent does, with `pause` ms a frame. */
function writer(pause = 0, framesMax = Number.POSITIVE_INFINITY) {
  const got: number[] = [];
  const signals: AbortSignal[] = [];
  const handler: Handlers['image.write'] = async (_params, call) => {
    signals.push(call.gone);
    for await (const frame of call.frames()) {
      if (frame.kind === 'end') return { bytes: got.length };
      got.push(frame.body[0] ?? -1);
      if (got.length >= framesMax) throw new OsmosisError('NO_ROOM', 'full');
      await sleep(pause);
    }
    throw new OsmosisError('IMAGE_CORRUPT', 'ended early');
  };
  return { got, signals, handler };
}

async function sendPieces(client: AgentClient, count: number): Promise<void> {
  for (let index = 0; index < count; index++)
    await client.sendImage('data', Buffer.alloc(PIECE_BYTES, index));
  await client.sendImage('end', new Uint8Array());
}

test('an image to the agent comes in order, and the sender waits for a slow reader', async () => {
  const { got, handler } = writer(5);
  const client = await clientOf({ 'image.write': handler });
  const call = client.call('image.write', { migration });
  let outstanding = 0;
  for (let index = 0; index < PIECES; index++) {
    await client.sendImage('data', Buffer.alloc(PIECE_BYTES, index));
    outstanding = Math.max(outstanding, index + 1 - got.length);
  }
  await client.sendImage('end', new Uint8Array());
  expect(await call).toEqual({ bytes: PIECES });
  expect(got).toEqual(Array.from({ length: PIECES }, (_, index) => index));
  expect(outstanding).toBeLessThan(PIECES / 2);
});

test('after an image the channel still serves calls, and still notices that its client is gone', async () => {
  const { signals, handler } = writer();
  const client = await clientOf({ 'image.write': handler, 'source.confirm': async () => ({}) });
  const call = client.call('image.write', { migration });
  await sendPieces(client, 3);
  await call;
  expect(await client.call('source.confirm', { migration }, { timeoutMs: 1_000 })).toEqual({});
  client.close();
  await eventually(() => expect(signals[0]?.aborted).toBe(true));
});

test('an agent that stops reading early answers its error; the rest of the image is dropped', async () => {
  const { got, signals, handler } = writer(0, 2);
  const client = await clientOf({ 'image.write': handler });
  const call = client.call('image.write', { migration });
  const failed = expect(call).rejects.toMatchObject({ code: 'NO_ROOM' });
  await sendPieces(client, PIECES);
  await failed;
  expect(got.length).toBe(2);
  client.close();
  await eventually(() => expect(signals[0]?.aborted).toBe(true));
});

test('a cancelled image does not stand in the way of the next one on the channel', async () => {
  const { got, handler } = writer();
  const client = await clientOf({ 'image.write': handler, 'source.confirm': async () => ({}) });
  const abort = new AbortController();
  const first = client.call('image.write', { migration }, { signal: abort.signal });
  await client.sendImage('data', Buffer.of(200));
  await eventually(() => expect(got).toEqual([200]));
  abort.abort();
  await expect(first).rejects.toMatchObject({ code: 'INTERRUPTED' });
  await client.call('source.confirm', { migration });
  const second = client.call('image.write', { migration });
  await sendPieces(client, 3);
  expect(await second).toEqual({ bytes: 4 });
  expect(got).toEqual([200, 0, 1, 2]);
});

test('a client that is gone in the middle of an image ends it', async () => {
  const { got, handler } = writer();
  const ended: unknown[] = [];
  const raw = await rawClient(
    await serve({
      'image.write': (params, call) =>
        handler(params, call).catch((error: unknown) => {
          ended.push(error);
          throw error;
        }),
    }),
  );
  raw.write(encodeMessage('request', { id: 1, method: 'image.write', params: { migration } }));
  raw.write(encodeFrame('data', Buffer.of(1)));
  await eventually(() => expect(got).toEqual([1]));
  raw.destroy();
  await eventually(() => expect(ended).toEqual([expect.objectContaining({ code: 'IMAGE_CORRUPT' })]));
});

test('an answer that no frame holds is an error for its client, and the agent goes on', async () => {
  const path = await serve({
    inspect: async () => snapshotWith({ name: 'x'.repeat(FRAME_BYTES_MAX) }),
    'source.confirm': async () => ({}),
  });
  const client = new AgentClient('alpha', connect(path));
  onTestFinished(() => client.close());
  await expect(client.call('inspect', { target: '1' })).rejects.toMatchObject({ code: 'AGENT_PROTOCOL' });
  expect(await client.call('source.confirm', { migration })).toEqual({});
});

test('a stream that has failed before anybody listened gives its reason to whoever calls', async () => {
  const stream = new PassThrough();
  stream.on('error', () => undefined);
  stream.destroy(new OsmosisError('AGENT_UNREACHABLE', 'osmosis is not in PATH on a; install it there'));
  await eventually(() => expect(stream.closed).toBe(true));
  const client = new AgentClient('a', stream);
  await expect(client.call('status', {})).rejects.toMatchObject({
    code: 'AGENT_UNREACHABLE',
    message: expect.stringContaining('not in PATH'),
  });
});

test('a request that no frame holds is refused at once, and does not come back when the connection ends', async () => {
  const client = await clientOf({});
  const unhandled = vi.fn();
  process.on('unhandledRejection', unhandled);
  onTestFinished(() => void process.off('unhandledRejection', unhandled));
  const keys = new Uint8Array(FRAME_BYTES_MAX);
  await expect(client.call('terminal.type', { cell: migration, keys })).rejects.toThrow('frame of');
  client.close();
  await eventually(async () =>
    expect(client.call('status', {})).rejects.toMatchObject({ code: 'AGENT_UNREACHABLE' }),
  );
  await sleep(0);
  expect(unhandled).not.toHaveBeenCalled();
});
