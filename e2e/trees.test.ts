/** More than one process, thread or socket moves: workers, pipelines, pairs; with numbered lines going through all of it. */
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { execOn, type LabHost, spawnOn } from '../fixtures/lab/hosts.ts';
import { untilListening } from '../fixtures/load/control.ts';
import { startLines, startTreeServer, type TreeMode } from '../fixtures/load/lines.ts';
import { endEverywhere } from '../fixtures/load/processes.ts';
import { migrateArgs, move, osmosis } from './cli.ts';
import { leftSince, type Traces, traces } from './traces.ts';

const BETWEEN_MS = 300;

let before: Traces;
beforeAll(async () => {
  before = await traces();
});

async function writeOn(hosts: readonly LabHost[], path: string, text: string): Promise<void> {
  const script = 'cat > "$0"';
  await Promise.all(hosts.map((host) => execOn(host, ['sh', '-c', script, path], { input: text })));
}

describe('servers of many parts', () => {
  it.each<[TreeMode, number, string]>([
    ['threads', 7400, 'a thread a connection'],
    ['fork', 7401, 'a process a connection'],
    ['reuseport', 7402, 'five listening sockets of one port in three processes'],
    ['pairs', 7403, 'children behind a pair of unix sockets and a listening unix socket'],
  ])('%s, port %i: %s', async (mode, port) => {
    await using server = await startTreeServer('alpha', port, mode);
    const client = await startLines('peer', [`alpha:${port}`], { connections: 12 });
    const { cell, flows } = await move(server.pid, 'alpha', 'beta');
    expect(flows).toEqual({ moved: 12, relayed: 0, lost: 0 });
    if (mode === 'fork') await move(cell, 'beta', 'gamma');
    await sleep(BETWEEN_MS);
    const summary = await client.stop();
    expect(summary).toMatchObject({ ok: true, faults: [] });
    expect(summary.lines).toBeGreaterThan(100);
  });

  it('nginx with its workers', async () => {
    const config = `user root; worker_processes 3; daemon on; pid /run/nginx-7404.pid; error_log /dev/null;
events { worker_connections 256; }
http { access_log off; keepalive_requests 1000000; server { listen 7404; location / { default_type text/plain; return 200 "$uri\\n"; } } }
`;
    await writeOn(['alpha', 'beta'], '/etc/nginx-7404.conf', config);
    await execOn('alpha', ['nginx', '-c', '/etc/nginx-7404.conf']);
    await untilListening('alpha', 7404);
    const pid = (await execOn('alpha', ['cat', '/run/nginx-7404.pid'])).stdout.trim();
    const client = await startLines('peer', ['alpha:7404'], { connections: 20, http: true });
    try {
      expect((await move(pid, 'alpha', 'beta')).flows.moved).toBe(20);
      await sleep(BETWEEN_MS);
      expect(await client.stop()).toMatchObject({ ok: true, faults: [] });
    } finally {
      await endEverywhere('nginx: ');
      await execOn('alpha', ['rm', '-f', '/run/nginx-7404.pid']);
    }
  });

  it('haproxy, with connections in and out', async () => {
    const config = `global
  nbthread 2
  ulimit-n 4096
defaults
  mode tcp
  timeout client 1m
  timeout server 1m
  timeout connect 5s
listen lines
  bind 0.0.0.0:7405
  server gamma 10.77.3.2:7406
`;
    await writeOn(['alpha', 'beta'], '/etc/haproxy-7405.cfg', config);
    await using _backend = await startTreeServer('gamma', 7406);
    const { pid } = await spawnOn('alpha', ['haproxy', '-db', '-f', '/etc/haproxy-7405.cfg']);
    await untilListening('alpha', 7405);
    const client = await startLines('peer', ['alpha:7405'], { connections: 15 });
    try {
      expect((await move(pid, 'alpha', 'beta')).flows).toEqual({ moved: 30, relayed: 0, lost: 0 });
      await sleep(BETWEEN_MS);
      expect(await client.stop()).toMatchObject({ ok: true, faults: [] });
    } finally {
      await endEverywhere('haproxy.*7405');
    }
  });
});

describe('a shell, its children, and what is in the pipes between them', () => {
  it('moves, and not a line is lost on the way to the client', async () => {
    const pipeline =
      'i=0; while :; do echo $i; i=$((i + 1)); [ $((i % 10)) != 0 ] || sleep 0.02; done | grep --line-buffered . | socat -u - TCP-LISTEN:7407,reuseaddr';
    const { pid } = await spawnOn('alpha', ['sh', '-c', pipeline]);
    await untilListening('alpha', 7407);
    const client = await spawnOn('peer', ['nc', '-d', '10.77.1.2', '7407'], {
      logFile: '/tmp/pipeline-7407.out',
    });
    await sleep(BETWEEN_MS);
    try {
      const { cell } = await move(pid, 'alpha', 'beta');
      await move(cell, 'beta', 'alpha');
      await sleep(BETWEEN_MS);
      const { stdout } = await execOn('peer', ['cat', '/tmp/pipeline-7407.out']);
      const lines = stdout.split('\n').slice(0, -1);
      expect(lines.length).toBeGreaterThan(500);
      expect(lines).toEqual(lines.map((_, index) => String(index)));
    } finally {
      await endEverywhere('while :; do echo .i');
      await endEverywhere('7407|grep --line-buffered');
      await execOn('peer', ['kill', String(client.pid)], { reject: false });
      await execOn('peer', ['rm', '-f', '/tmp/pipeline-7407.out']);
    }
  });
});

describe('a unix socket with its other end outside of the tree', () => {
  const LISTEN =
    'import socket, os, time; u = socket.socket(socket.AF_UNIX); u.bind("/tmp/outside-7408.sock"); u.listen()';
  const CONNECT =
    'import socket, time; c = socket.socket(socket.AF_UNIX); c.connect("/tmp/outside-7408.sock")';

  it.each([
    ['a client outside', 0],
    ['a server outside', 1],
  ] as const)('is refused by name: %s', async (_, moved) => {
    await execOn('alpha', ['rm', '-f', '/tmp/outside-7408.sock']);
    const server = await spawnOn('alpha', ['python3', '-c', `${LISTEN}; a = u.accept(); time.sleep(60)`]);
    await execOn('alpha', [
      'sh',
      '-c',
      'until [ -S /tmp/outside-7408.sock ]; do sleep 0.02; done; sleep 0.1',
    ]);
    const client = await spawnOn('alpha', ['python3', '-c', `${CONNECT}; time.sleep(60)`]);
    await sleep(BETWEEN_MS);
    const { object } = await osmosis(migrateArgs([server, client][moved]?.pid ?? 0, 'alpha', 'beta'));
    await execOn('alpha', ['kill', String(server.pid), String(client.pid)]);
    await execOn('alpha', ['rm', '-f', '/tmp/outside-7408.sock']);
    expect(object).toMatchObject({ ok: false, code: 'PREFLIGHT', owner: 'source' });
    expect(object.message).toContain('unix socket');
    expect(object.message).toContain('/tmp/outside-7408.sock');
  });
});

describe('standard output to a unix socket, as journald gives it to every service', () => {
  const FILE = '/tmp/said-7409';
  /** The parent stays, and writes down what the child says. */
  const SUPERVISOR = `
import os, socket, sys
near, far = socket.socketpair()
if os.fork() == 0:
    os.setsid()
    near.close()
    os.dup2(far.fileno(), 1); os.dup2(far.fileno(), 2); far.close()
    os.execvp("sh", ["sh", "-c", "while :; do echo said; sleep 0.05; done"])
far.close()
while data := near.recv(4096):
    open("${FILE}", "ab").write(data)
os.wait()`;

  it('stays behind; the process goes on without', async () => {
    const supervisor = await spawnOn('alpha', ['python3', '-c', SUPERVISOR]);
    await sleep(BETWEEN_MS);
    const child = (await execOn('alpha', ['pgrep', '-P', String(supervisor.pid)])).stdout.trim();
    const { pid } = await move(child, 'alpha', 'beta');
    await sleep(BETWEEN_MS);
    const links = await execOn('beta', ['sh', '-c', 'readlink /proc/$0/fd/1 /proc/$0/fd/2', String(pid)]);
    expect(links.stdout).toBe('/dev/null\n/dev/null');
    expect((await execOn('alpha', ['cat', FILE])).stdout).toContain('said');
    await endEverywhere('while :; do echo said');
    await execOn('alpha', ['sh', '-c', 'kill $1 2>/dev/null; rm -f "$0"', FILE, String(supervisor.pid)]);
  });
});

afterAll(async () => {
  expect(await leftSince(before)).toEqual({});
});
