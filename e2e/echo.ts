/**
 * Both ends of a connection whose addresses change under it. Run in a namespace:
 *
 *   echo.ts serve tcp|udp ADDRESS PORT                    sends back what it gets
 *   echo.ts call tcp|udp ADDRESS PORT LOCAL-ADDRESS LOCAL-PORT
 *
 * `serve` prints `ready`; `call` prints `ready` once connected, then reads lines from its standard input: `N` sends N
 * bytes and, when they have come back unchanged, prints `N MILLISECONDS`; or `N CODE` where UDP hears of an error.
 */
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { flushCompileCache } from 'node:module';
import { connect, createServer, type Socket } from 'node:net';
import { createInterface } from 'node:readline';

const UDP_RETRY_MS = 100;

const [role, protocol, address = '', portText, localAddress = '', localPortText] = process.argv.slice(2);
const port = Number(portText);
const localPort = Number(localPortText);
const family = address.includes(':') ? 'udp6' : 'udp4';

// It is killed in the end, and the next one need not compile this again.
flushCompileCache();
if (role === 'serve' && protocol === 'tcp') {
  const server = createServer((socket) => socket.pipe(socket).on('error', () => socket.destroy()));
  server.listen(port, address, () => console.log('ready'));
} else if (role === 'serve') {
  const socket = createSocket(family);
  socket.on('message', (message, from) => socket.send(message, from.port, from.address));
  socket.bind(port, address, () => console.log('ready'));
} else if (protocol === 'tcp') {
  const socket = connect({ host: address, port, localAddress, localPort });
  await once(socket, 'connect');
  socket.on('error', () => process.exit(1));
  await answer((bytes) => tcpEcho(socket, bytes));
} else {
  await answer(udpEcho);
}

async function answer(echo: (bytes: number) => Promise<string | undefined>): Promise<void> {
  console.log('ready');
  for await (const line of createInterface(process.stdin)) {
    const started = performance.now();
    const failure = await echo(Number(line));
    console.log(`${line} ${failure ?? Math.round(performance.now() - started)}`);
  }
  process.exit(0);
}

async function tcpEcho(socket: Socket, bytes: number): Promise<undefined> {
  const sent = Buffer.alloc(bytes, 'The quick brown fox jumps over the lazy dog. ');
  const back: Buffer[] = [];
  let missing = bytes;
  const done = Promise.withResolvers<void>();
  const onData = (chunk: Buffer) => {
    back.push(chunk);
    missing -= chunk.length;
    if (missing <= 0) done.resolve();
  };
  socket.on('data', onData).once('close', () => done.reject(new Error('closed')));
  socket.write(sent);
  await done.promise;
  socket.off('data', onData).removeAllListeners('close');
  if (!Buffer.concat(back).equals(sent)) throw new Error('came back changed');
  return undefined;
}

async function udpEcho(bytes: number): Promise<string | undefined> {
  const socket = createSocket(family);
  socket.bind(localPort, localAddress);
  await once(socket, 'listening');
  socket.connect(port, address);
  await once(socket, 'connect');
  const send = () => socket.send(Buffer.alloc(bytes, 'x'));
  const again = setInterval(send, UDP_RETRY_MS);
  send();
  const heard = await once(socket, 'message').catch(({ code }: NodeJS.ErrnoException) => code);
  clearInterval(again);
  socket.close();
  await once(socket, 'close');
  if (!Array.isArray(heard)) return heard;
  const [message] = heard as [Buffer];
  if (message.length !== bytes) throw new Error('came back changed');
  return undefined;
}
