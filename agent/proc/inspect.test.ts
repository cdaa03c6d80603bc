/** On real processes of this test: Python, since a Node process has an io_uring open. */
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { type AddressInfo, createServer, type Server } from 'node:net';
import { join } from 'node:path';
import { expect, onTestFinished, type TestContext, test } from 'vitest';
import { eventually, temporaryDirectory } from '../test-support.ts';
import { currentFlows, hasCapability, inspectTree, isConnected } from './inspect.ts';
import type { InetSocket } from './sockets.ts';

function hasPython(): boolean {
  try {
    execFileSync('python3', ['-c', 'import socket']);
    return true;
  } catch {
    return false;
  }
}
const PYTHON = hasPython();

/**
 * A Python process that has executed `statements`, with `said`, what it has printed, until the test is over. Into a file:
 * what Node calls a pipe is a unix socket with an end outside of the tree.
 */
async function python({ skip }: TestContext, statements: string): Promise<{ pid: number; said: string }> {
  skip(!PYTHON, 'needs python3');
  const script = `import os, socket, sys, time\n${statements}\nprint(flush=True)\ntime.sleep(60)\n`;
  const file = join(temporaryDirectory(), 'said');
  const output = openSync(file, 'w');
  const child = spawn('python3', ['-c', script], { stdio: ['ignore', output, 'ignore'] });
  closeSync(output);
  onTestFinished(() => void child.kill('SIGKILL'));
  const said = await eventually(() => {
    const text = readFileSync(file, 'utf8');
    expect(text).toMatch(/\n$/);
    return text.trimEnd();
  });
  return { pid: child.pid ?? 0, said };
}

async function listeningServer(): Promise<{ server: Server; port: number }> {
  const server = createServer().listen(0, '127.0.0.1');
  onTestFinished(() => void server.close());
  await once(server, 'listening');
  return { server, port: (server.address() as AddressInfo).port };
}

const failed = (checks: readonly { ok: boolean; message: string }[]) =>
  checks.filter(({ ok }) => !ok).map(({ message }) => message);

const PAIR = `
listener = socket.create_server(("127.0.0.1", 0))
port = listener.getsockname()[1]
near = socket.create_connection(("127.0.0.1", port))
far, _ = listener.accept()
print(port, end="")`;

test('a listener and a pair of sockets inside the tree: no flow, nothing in the way', async (context) => {
  const { pid, said } = await python(context, PAIR);
  const tree = await inspectTree(pid);
  expect(tree.flows).toEqual([]);
  expect(tree.listeners).toEqual([{ protocol: 'tcp', address: '127.0.0.1', port: Number(said) }]);
  expect(tree.addresses).toEqual([]);
  expect(tree.processes).toMatchObject([{ pid, inner_pid: pid, uid: process.getuid?.() }]);
  expect(tree.image_bytes).toBeGreaterThan(1_000_000);
  expect(tree.files[0]).toMatchObject({ kind: 'executable' });
  expect(failed(tree.checks)).toEqual([]);
});

test('a pair that spans parent and child is inside the tree too', async (context) => {
  const { pid } = await python(
    context,
    `${PAIR}
if os.fork() == 0:
    far.close()
    time.sleep(60)
    os._exit(0)
near.close()`,
  );
  await eventually(async () => {
    const { processes, flows } = await inspectTree(pid);
    expect(processes.length).toBe(2);
    expect(flows).toEqual([]);
  });
  const children = (await inspectTree(pid)).processes.slice(1);
  for (const child of children) process.kill(child.pid, 'SIGKILL');
});

test('a connection to somebody else on this host is a flow', async (context) => {
  const { server, port } = await listeningServer();
  const accepted = once(server, 'connection');
  const { pid, said } = await python(
    context,
    `s = socket.create_connection(("127.0.0.1", ${port})); print(s.getsockname()[1], end="")`,
  );
  await accepted;
  const flow = {
    protocol: 'tcp',
    local: { address: '127.0.0.1', port: Number(said) },
    remote: { address: '127.0.0.1', port },
  };
  expect(currentFlows(pid)).toEqual([flow]);
  const tree = await inspectTree(pid);
  expect(tree.flows).toEqual([flow]);
  expect(failed(tree.checks)).toEqual([]);
});

test('one end of a pipe, and files that are open', async (context) => {
  const path = join(temporaryDirectory(), 'data');
  writeFileSync(path, '12345');
  const statements = `f = open("${path}")\nr, w = os.pipe()\nr2, w2 = os.pipe()\nos.close(w)\nprint(os.readlink(f"/proc/self/fd/{r}"), end="")`;
  const { pid, said } = await python(context, statements);
  const { outside, files } = await inspectTree(pid);
  const what = expect.stringMatching(`^one end of a pipe \\(pid ${pid} fd \\d+\\)$`);
  // Whoever runs the tests may have left the process other pipes.
  expect(outside.filter(({ resource }) => resource === said)).toEqual([
    { resource: said, external: false, what },
  ]);
  expect(files).toContainEqual({ path, kind: 'open', size: 5 });
});

/** Statement and the failed check that it leads to; undefined: none. The columns of the inodes are proved by it. */
test.for([
  ['a unix socket', 'socket.socketpair()', undefined],
  [
    'a netlink socket',
    '[socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)]; held[0].bind((0, 0))',
    undefined,
  ],
  [
    'a UDP socket',
    '[socket.socket(socket.AF_INET, socket.SOCK_DGRAM)]; held[0].bind(("127.0.0.1", 0))',
    undefined,
  ],
  ['a UDP socket that is not bound', 'socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)', undefined],
  ['a raw socket', 'socket.socket(socket.AF_INET, socket.SOCK_RAW, 255)', 'has a raw socket'],
  ['a raw IPv6 socket', 'socket.socket(socket.AF_INET6, socket.SOCK_RAW, 58)', 'has a raw socket'],
  ['a packet socket', 'socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)', 'has a packet socket'],
  ['an MPTCP socket', '[socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)]; held[0].listen()', 'MPTCP'],
  ['a terminal with both its ends', '__import__("pty").openpty()', undefined],
  [
    'a terminal whose other end is not here',
    '[__import__("os").close(fd) if end == 0 else fd for end, fd in enumerate(__import__("pty").openpty())]',
    'has the terminal /dev/pts/',
  ],
] as const)('%s', async ([what, expression, message], context) => {
  const { pid, said } = await python(
    context,
    `try:\n    held = ${expression}\nexcept OSError as error:\n    print(error, end="")`,
  );
  context.skip(
    what === 'an MPTCP socket' && process.getuid?.() !== 0,
    'needs root, to enter the network namespace',
  );
  context.skip(said !== '', `this host gives no process ${what}: ${said}`);
  const found = failed((await inspectTree(pid)).checks);
  expect(found).toEqual(message === undefined ? [] : [expect.stringContaining(message)]);
});

test('a UDP socket that serves anybody listens; one that is connected has a flow', async (context) => {
  const { pid, said } = await python(
    context,
    `near, far = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
near.bind(("0.0.0.0", 0))
far.connect(("127.0.0.1", 9))
print(near.getsockname()[1], *far.getsockname(), end="")`,
  );
  const [port, address = '', farPort] = said.split(' ');
  const { flows, listeners, addresses, checks } = await inspectTree(pid);
  expect(listeners).toEqual([{ protocol: 'udp', address: '0.0.0.0', port: Number(port) }]);
  const local = { address, port: Number(farPort) };
  expect(flows).toEqual([{ protocol: 'udp', local, remote: { address: '127.0.0.1', port: 9 } }]);
  expect(addresses).toEqual([]);
  expect(checks).toContainEqual(expect.objectContaining({ name: 'datagrams', ok: true }));
});

test('a link-local address is refused by name', async (context) => {
  const { pid, said } = await python(
    context,
    `import glob
found = [line.split() for line in open("/proc/net/if_inet6") if line.startswith("fe80")]
if found:
    listener = socket.socket(socket.AF_INET6)
    address = socket.inet_ntop(socket.AF_INET6, bytes.fromhex(found[0][0]))
    listener.bind((address, 0, 0, int(found[0][1], 16)))
    listener.listen()
print(len(found), end="")`,
  );
  context.skip(said === '0', 'this host has no link-local address');
  expect(failed((await inspectTree(pid)).checks)).toEqual([
    expect.stringContaining('link-local address [fe80:'),
  ]);
});

test('no process, and the agent itself', async () => {
  await expect(inspectTree(2 ** 30)).rejects.toMatchObject({ code: 'NO_SUCH_TARGET', phase: 'plan' });
  const { checks } = await inspectTree(process.pid);
  expect(failed(checks)).toContainEqual(expect.stringContaining('the agent itself cannot move'));
});

test.each([
  ['000001ffffffffff', true],
  ['000001fffeffffff', false],
  ['0000000001000000', true],
])('CAP_SYS_RESOURCE in %s: %s', (mask, expected) => {
  expect(hasCapability(`Name:\tx\nCapEff:\t${mask}\nCapBnd:\t0`, 24)).toBe(expected);
});

test('a socket is connected with both endpoints, until nothing but waiting is left', () => {
  const socket = (state: InetSocket['state'], port = 1) => ({
    ...({ protocol: 'tcp', family: 4, sendQueue: 0, receiveQueue: 0, inode: 1 } as const),
    local: { address: '10.0.0.1', port: 1 },
    remote: { address: '10.0.0.2', port },
    state,
  });
  const states = ['established', 'close-wait', 'fin-wait-2', 'listen', 'time-wait'] as const;
  expect(states.map((state) => isConnected(socket(state)))).toEqual([true, true, true, false, false]);
  expect(isConnected(socket('close', 0))).toBe(false);
});
