/** Reaching a host, against a real sshd on loopback. */
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { appendFile, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer, type Server, type Socket } from 'node:net';
import { join, resolve } from 'node:path';
import type { Duplex } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { execa } from 'execa';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { connectHost, type HostConnection } from '../orchestrator/ssh/host.ts';
import { LIVENESS_MS_MAX } from '../orchestrator/ssh/liveness.ts';
import { parseTarget } from '../orchestrator/ssh/target.ts';
import { MISSING, type Sshd, startSshd } from './sshd.ts';

const ECHO = 'exec cat';
const ECHO_BYTES = 50_000_000;
const STARTED_MS_MAX = 10_000;
/** More than all the buffers on the way. */
const LAST_BYTES = 10_000_000;
const CHUNK_BYTES = 100_000;
const STDIO = resolve(import.meta.dirname, '../agent/stdio.ts');

describe.skipIf(MISSING !== undefined)(
  `reaching a host over SSH${MISSING === undefined ? '' : `: ${MISSING}`}`,
  () => {
    let sshd: Sshd;
    const open: HostConnection[] = [];
    const connect = async (alias: string, signal?: AbortSignal) => {
      const host = await connectHost(parseTarget(`ssh://${alias}`), { configFile: sshd.configFile, signal });
      open.push(host);
      return host;
    };
    const file = (name: string) => join(sshd.dir, name);
    /** Installs an agent that tells which process of the server its connection has: known once so many streams have begun. */
    const tellingServer = async (streams: number) => {
      const told = file('bin/osmosis.pids');
      await rm(told, { force: true });
      await sshd.install(`echo $PPID >> ${told}; exec cat`);
      return async () => {
        const read = async () => (await readFile(told, 'utf8').catch(() => '')).split('\n').filter(Boolean);
        await expect.poll(read, { timeout: STARTED_MS_MAX }).toHaveLength(streams);
        return Number((await read())[0]);
      };
    };

    beforeAll(async () => {
      sshd = await startSshd();
    });
    afterEach(async () => {
      for (const host of open.splice(0)) await host.close();
    });
    afterAll(() => sshd?.stop());

    it('echoes 50 MB, across key exchanges, on two streams of one connection', async () => {
      await sshd.install(ECHO);
      const host = await connect('good');
      const [first, second] = await Promise.all([host.openAgent(), host.openAgent()]);
      const digests = await Promise.all([echo(first), echo(second)]);
      for (const { sent, received } of digests) expect(received).toBe(sent);
    });

    it('holds the writer back while the far side does not read', async () => {
      await sshd.install('sleep 2; exec cat >/dev/null');
      const stream = await (await connect('good')).openAgent();
      stream.resume();
      let written = 0;
      while (stream.write(Buffer.alloc(CHUNK_BYTES)) || (await drains(stream))) written += CHUNK_BYTES;
      // The far pipe, the SSH window of 2 MiB and the buffer here.
      expect(written).toBeLessThan(6_000_000);
      stream.destroy();
    });

    it('holds the far side back while nobody reads here', async () => {
      await sshd.install('exec head -c 100000000 /dev/zero');
      const host = await connect('good');
      const stream = await host.openAgent();
      const before = process.memoryUsage().rss;
      await sleep(1_000);
      expect(process.memoryUsage().rss - before).toBeLessThan(40_000_000);
      let bytes = 0;
      for await (const chunk of stream) bytes += chunk.length;
      expect(bytes).toBe(100_000_000);
    });

    it('carries a stream to a Unix socket and back through the product’s own stdio, to the last byte', async () => {
      await sshd.install(stdioScript(file('agent.sock')));
      const server = await listen(file('agent.sock'), (socket) => socket.pipe(socket));
      const { sent, received } = await echo(await (await connect('good')).openAgent());
      server.close();
      expect(received).toBe(sent);
    });

    it('ends the stream when the agent goes away, after the last byte that it wrote', async () => {
      await sshd.install(stdioScript(file('dying.sock')));
      const server = await listen(file('dying.sock'), (socket) => {
        socket.end(Buffer.alloc(LAST_BYTES), () => socket.destroy());
      });
      const stream = await (await connect('good')).openAgent();
      await sleep(500);
      let bytes = 0;
      for await (const chunk of stream) bytes += chunk.length;
      server.close();
      expect(bytes).toBe(LAST_BYTES);
    });

    it('refuses an unknown host key, with its fingerprint and how to add it', async () => {
      await writeFile(file('empty'), '');
      await sshd.addHost('unknown', { UserKnownHostsFile: file('empty') });
      const { stdout } = await execa('ssh-keygen', ['-lf', file('host_ed25519.pub')]);
      await expect(connect('unknown')).rejects.toMatchObject({ code: 'SSH_HOST_KEY' });
      await expect(connect('unknown')).rejects.toThrow(stdout.split(' ')[1]);
      await expect(connect('unknown')).rejects.toThrow(`ssh-keyscan -p ${sshd.port} 127.0.0.1`);
    });

    it('refuses a changed host key, whatever StrictHostKeyChecking says', async () => {
      const stranger = (await readFile(file('stranger.pub'), 'utf8')).split(' ').slice(0, 2).join(' ');
      await writeFile(file('changed'), `[127.0.0.1]:${sshd.port} ${stranger}\n`);
      for (const policy of ['yes', 'accept-new', 'no']) {
        await sshd.addHost(`changed-${policy}`, {
          UserKnownHostsFile: file('changed'),
          StrictHostKeyChecking: policy,
        });
        await expect(connect(`changed-${policy}`)).rejects.toMatchObject({
          code: 'SSH_HOST_KEY',
          message: expect.stringContaining('HAS CHANGED'),
        });
      }
    });

    it('refuses a revoked host key', async () => {
      await writeFile(file('revoked'), `${sshd.knownLine}@revoked ${sshd.knownLine}`);
      await sshd.addHost('revoked', { UserKnownHostsFile: file('revoked'), StrictHostKeyChecking: 'no' });
      await expect(connect('revoked')).rejects.toThrow('REVOKED');
    });

    it('accepts a hashed name, a key of another type and HostKeyAlias', async () => {
      const ecdsa = (await readFile(file('host_ecdsa.pub'), 'utf8')).split(' ').slice(0, 2).join(' ');
      await writeFile(file('hashed'), `[127.0.0.1]:${sshd.port} ${ecdsa}\n`);
      await execa('ssh-keygen', ['-H', '-f', file('hashed')]);
      await sshd.addHost('hashed', { UserKnownHostsFile: file('hashed') });
      await writeFile(file('aliased'), `bob ${ecdsa}\n`);
      await sshd.addHost('aliased', { UserKnownHostsFile: file('aliased'), HostKeyAlias: 'bob' });
      await connect('hashed');
      await connect('aliased');
    });

    it('remembers a new host under accept-new, in a form that ssh finds again', async () => {
      for (const hash of ['yes', 'no']) {
        const known = join(sshd.dir, `new-${hash}`, 'known_hosts');
        const options = { UserKnownHostsFile: known, HashKnownHosts: hash };
        await sshd.addHost(`new-${hash}`, { ...options, StrictHostKeyChecking: 'accept-new' });
        await sshd.addHost(`then-${hash}`, options);
        await connect(`new-${hash}`);
        await connect(`then-${hash}`);
        const { stdout } = await execa('ssh-keygen', ['-F', `[127.0.0.1]:${sshd.port}`, '-f', known]);
        expect(stdout).toContain(sshd.knownLine.split(' ')[1]);
      }
    });

    it('names the user and the keys that a host refuses', async () => {
      await sshd.addHost('refused', { IdentityFile: file('stranger') });
      await expect(connect('refused')).rejects.toMatchObject({ code: 'SSH_AUTH' });
      await expect(connect('refused')).rejects.toThrow(file('stranger'));
      await sshd.addHost('encrypted', { IdentityFile: file('locked') });
      await expect(connect('encrypted')).rejects.toThrow(`${file('locked')} (encrypted`);
    });

    it('logs in with ssh-agent, and under IdentitiesOnly only with the keys that are named', async () => {
      const socket = file('auth.sock');
      const agent = execa('ssh-agent', ['-D', '-a', socket], { reject: false });
      try {
        await addToAgent(socket, file('user'));
        await sshd.addHost('by-agent', { IdentityFile: 'none', IdentityAgent: socket, IdentitiesOnly: 'no' });
        await sshd.addHost('only-other', { IdentityFile: file('stranger'), IdentityAgent: socket });
        await sshd.addHost('by-public-half', { IdentityFile: file('user.pub'), IdentityAgent: socket });
        await connect('by-agent');
        await connect('by-public-half');
        await expect(connect('only-other')).rejects.toMatchObject({ code: 'SSH_AUTH' });
      } finally {
        agent.kill();
        await agent;
      }
    });

    it('goes through ProxyJump and tells why a jump fails', async () => {
      await sshd.install(ECHO);
      await sshd.addHost('jumped', { ProxyJump: 'good' });
      await sshd.addHost('jumped-twice', { ProxyJump: 'good,good' });
      await sshd.addHost('ill-jumped', { ProxyJump: 'refused-jump' });
      await sshd.addHost('refused-jump', { IdentityFile: file('stranger') });
      for (const alias of ['jumped', 'jumped-twice']) {
        const { sent, received } = await echo(await (await connect(alias)).openAgent(), 5_000_000);
        expect(received).toBe(sent);
      }
      await expect(connect('ill-jumped')).rejects.toMatchObject({
        code: 'SSH_UNREACHABLE',
        message: expect.stringContaining('Permission denied'),
      });
    });

    it('refuses a ProxyCommand', async () => {
      await sshd.addHost('proxied', { ProxyCommand: 'nc %h %p' });
      await expect(connect('proxied')).rejects.toMatchObject({ code: 'SSH_CONFIG' });
    });

    it('tells a closed port, a name that does not resolve and a server that says nothing', async () => {
      await sshd.addHost('closed', { Port: '1' });
      await sshd.addHost('nameless', { HostName: 'osmosis.invalid' });
      await expect(connect('closed')).rejects.toThrow('connection refused');
      await expect(connect('nameless')).rejects.toMatchObject({ code: 'SSH_UNREACHABLE' });
      const mute = createServer().listen(0, '127.0.0.1');
      await once(mute, 'listening');
      const address = mute.address();
      await sshd.addHost('mute', { Port: String(typeof address === 'object' ? address?.port : 0) });
      await expect(connect('mute', AbortSignal.timeout(500))).rejects.toMatchObject({ code: 'INTERRUPTED' });
      mute.close();
    });

    it('tells a host without osmosis from one whose agent is not running', async () => {
      await sshd.uninstall();
      const host = await connect('good');
      await expect(drained(await host.openAgent())).rejects.toMatchObject({
        code: 'AGENT_UNREACHABLE',
        message: expect.stringContaining('not in PATH on good'),
      });
      await sshd.install('echo "osmosis: the agent does not answer" >&2; exit 69');
      await expect(drained(await host.openAgent())).rejects.toMatchObject({
        code: 'AGENT_UNREACHABLE',
        message: expect.stringContaining('the agent does not answer'),
      });
    });

    it('ends every stream with an error when the connection is cut, read or not', async () => {
      const serverPid = await tellingServer(2);
      const host = await connect('good');
      const streams = [await host.openAgent(), await host.openAgent()];
      const failures = streams.map((stream) => once(stream, 'error'));
      process.kill(await serverPid(), 'SIGKILL');
      for (const [error] of await Promise.all(failures))
        expect(error).toMatchObject({ code: 'SSH_UNREACHABLE' });
      await expect(host.openAgent()).rejects.toMatchObject({ code: 'SSH_UNREACHABLE' });
      await host.close();
    });

    it('notices a host that has gone silent', async () => {
      const serverPid = await tellingServer(1);
      const stream = await (await connect('good')).openAgent();
      const pid = await serverPid();
      process.kill(pid, 'SIGSTOP');
      const since = performance.now();
      try {
        const [error] = await once(stream, 'error');
        expect(error).toMatchObject({ code: 'SSH_UNREACHABLE' });
        expect(performance.now() - since).toBeLessThan(3 * LIVENESS_MS_MAX);
      } finally {
        process.kill(pid, 'SIGKILL');
      }
    });

    it('reports a broken configuration in ssh’s words', async () => {
      await appendFile(sshd.configFile, 'NoSuchKeyword yes\n');
      await expect(connect('good')).rejects.toMatchObject({
        code: 'SSH_CONFIG',
        message: expect.stringMatching(/nosuchkeyword/i),
      });
    });
  },
);

async function echo(stream: Duplex, bytes = ECHO_BYTES): Promise<{ sent: string; received: string }> {
  const sent = createHash('sha256');
  const received = createHash('sha256');
  const reading = (async () => {
    for await (const chunk of stream) received.update(chunk);
  })();
  for (let left = bytes; left > 0; left -= CHUNK_BYTES) {
    const chunk = randomBytes(Math.min(CHUNK_BYTES, left));
    sent.update(chunk);
    if (!stream.write(chunk)) await once(stream, 'drain');
  }
  stream.end();
  await reading;
  return { sent: sent.digest('hex'), received: received.digest('hex') };
}

async function drains(stream: Duplex): Promise<boolean> {
  return Promise.race([once(stream, 'drain').then(() => true), sleep(500, false)]);
}

async function drained(stream: Duplex): Promise<void> {
  for await (const _ of stream);
}

async function listen(path: string, serve: (socket: Socket) => void): Promise<Server> {
  const server = createServer({ allowHalfOpen: true }, serve).listen(path);
  await once(server, 'listening');
  return server;
}

function stdioScript(path: string): string {
  return `exec ${process.execPath} --input-type=module -e 'import { runStdio } from "${STDIO}"; runStdio("${path}")'`;
}

async function addToAgent(socket: string, key: string): Promise<void> {
  for (let attempt = 0; ; attempt += 1) {
    const { exitCode } = await execa('ssh-add', ['-q', key], {
      env: { SSH_AUTH_SOCK: socket },
      reject: false,
    });
    if (exitCode === 0) return;
    if (attempt === 20) throw new Error('ssh-agent does not start');
    await sleep(50);
  }
}
