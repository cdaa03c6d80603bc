import { createSocket, type Socket } from 'node:dgram';
import { once } from 'node:events';
import { expect, onTestFinished, test, vi } from 'vitest';
import vectors from '../../fixtures/vectors/h2o.json' with { type: 'json' };
import { eventually } from '../test-support.ts';
import { H2oSocket, type Sender } from './socket.ts';

const [hello] = vectors.clear;
const datagram = Buffer.from(hello?.datagram ?? '', 'hex');
const FLOOD = 20_000;

async function opened(failed = vi.fn()): Promise<{ socket: H2oSocket; port: number; froms: Sender[] }> {
  const free = createSocket('udp6');
  free.bind(0);
  await once(free, 'listening');
  const { port } = free.address();
  free.close();
  await once(free, 'close');
  const socket = new H2oSocket(failed);
  await socket.open(port);
  onTestFinished(() => socket.close());
  const froms: Sender[] = [];
  socket.listen((_message, from) => froms.push(from));
  return { socket, port, froms };
}

async function sender(address: string): Promise<Socket> {
  const socket = createSocket('udp4');
  socket.bind(0, address);
  await once(socket, 'listening');
  onTestFinished(() => void socket.close());
  return socket;
}

test('a port that is taken is refused, also by another agent', async () => {
  const { port } = await opened();
  await expect(new H2oSocket(vi.fn()).open(port)).rejects.toThrow('is another agent running?');
});

test('whoever sends more than its share is not heard, and others are', async () => {
  const { port, froms } = await opened();
  const [flooder, other] = [await sender('127.0.0.9'), await sender('127.0.0.2')];
  for (let sent = 0; sent < FLOOD; sent++) {
    flooder.send(datagram, port, '127.0.0.1');
    if (sent % 100 === 0) await new Promise(setImmediate);
  }
  const heard = () => froms.filter(({ address }) => address === '127.0.0.2').length;
  // Its own socket's buffer is full by now, and nobody else's.
  other.send(datagram, port, '127.0.0.1');
  await eventually(() => expect(heard()).toBe(1));
  expect(froms.length).toBeLessThan(FLOOD / 2);
});

test('what an expected host says is heard once', async () => {
  const { socket, port, froms } = await opened();
  const other = await sender('127.0.0.2');
  for (const address of ['127.0.0.2', '127.0.0.2', '::1', '127.0.0.3']) socket.expect(address);
  other.send(datagram, port, '127.0.0.1');
  await eventually(() => expect(froms).toHaveLength(1));
  await socket.close();
});

test('a receiver that fails keeps a message from nobody, and says so', async () => {
  const failed = vi.fn();
  const { socket, port, froms } = await opened(failed);
  const full = new Error('no room');
  socket.listen(() => {
    throw full;
  });
  const [after, other] = [vi.fn(), await sender('127.0.0.2')];
  socket.listen(after);
  other.send(datagram, port, '127.0.0.1');
  await eventually(() => expect(after).toHaveBeenCalledOnce());
  expect([froms.length, failed.mock.calls]).toEqual([1, [[full]]]);
});
