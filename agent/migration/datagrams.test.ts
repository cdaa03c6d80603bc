/** On a real process: Python, whose sockets are read when it is told so. */
import { spawn, spawnSync } from 'node:child_process';
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { expect, onTestFinished, test } from 'vitest';
import type { Flow } from '../address.ts';
import { inspectTree } from '../proc/inspect.ts';
import { eventually } from '../test-support.ts';
import { DatagramQueues, unconnectedFlows, withFlows } from './datagrams.ts';

const SERVER = `
import socket, sys
near = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
near.bind(("127.0.0.1", 0))
print(near.getsockname()[1], flush=True)
sys.stdin.readline()
near.recv(100)
sys.stdin.read()`;
const NEVER = new AbortController().signal;
const hasPython = spawnSync('python3', ['-c', 'import socket']).status === 0;
if (!hasPython) console.warn('SKIPPED: UDP queues are not tested, this machine has no python3');

async function serverProcess() {
  const child = spawn('python3', ['-c', SERVER], { stdio: ['pipe', 'pipe', 'inherit'] });
  onTestFinished(() => void child.kill('SIGKILL'));
  const [port] = (await once(createInterface(child.stdout), 'line')) as [string];
  return { pid: child.pid ?? 0, port: Number(port), read: () => void child.stdin.write('\n') };
}

async function send(port: number): Promise<void> {
  const socket = createSocket('udp4');
  await new Promise((sent) => socket.send('hello', port, '127.0.0.1', sent));
  socket.close();
}

test.skipIf(!hasPython)('what a process has not taken is counted, and waited for', async () => {
  const { pid, port, read } = await serverProcess();
  const queues = new DatagramQueues(pid);
  expect(queues.leftover()).toEqual({ sockets: 0, bytes: 0 });
  await send(port);
  await eventually(() => expect(queues.leftover().sockets).toBe(1));
  expect(queues.leftover().bytes).toBeGreaterThan(0);
  setTimeout(read, 20);
  await queues.drain(NEVER);
  expect(queues.leftover()).toEqual({ sockets: 0, bytes: 0 });
});

test.skipIf(!hasPython)('the waiting ends', async () => {
  const { pid, port } = await serverProcess();
  const queues = new DatagramQueues(pid);
  await send(port);
  await eventually(() => expect(queues.leftover().sockets).toBe(1));
  await queues.drain(NEVER);
  expect(queues.leftover().sockets).toBe(1);
});

test.skipIf(!hasPython)(
  'of the flows that were seen, those of the tree’s unconnected sockets count',
  async () => {
    const { pid, port } = await serverProcess();
    const tree = await inspectTree(pid);
    const remote = { address: '127.0.0.9', port: 53 };
    const flow = (changes: Partial<Flow> = {}): Flow => ({
      protocol: 'udp',
      local: { address: '127.0.0.1', port },
      remote,
      ...changes,
    });
    const others = [
      flow({ local: { address: '127.0.0.2', port } }),
      flow({ local: { address: '127.0.0.1', port: port + 1 } }),
      flow({ protocol: 'tcp' }),
    ];
    expect(unconnectedFlows(pid, [flow(), ...others], tree)).toEqual([flow()]);
    // One that has a socket of its own is found without being told.
    expect(unconnectedFlows(pid, [flow()], { ...tree, flows: [flow()] })).toEqual([]);
    const more = flow({ local: { address: '10.77.1.2', port } });
    expect(withFlows(tree, [more])).toMatchObject({ flows: [more], addresses: ['10.77.1.2'] });
  },
);
