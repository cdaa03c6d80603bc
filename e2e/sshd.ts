/** A real sshd of its own on loopback, with keys, known_hosts and client configuration in one temporary directory. */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { chmod, copyFile, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { connect, createServer } from 'node:net';
import { tmpdir, userInfo } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { execa } from 'execa';

const SSHD = '/usr/sbin/sshd';
const START_MS_MAX = 5_000;
const POLL_MS = 50;

export const MISSING = existsSync(SSHD) ? undefined : `${SSHD} is missing; install openssh-server`;

export type Sshd = {
  readonly dir: string;
  readonly port: number;
  /** Client configuration; host aliases are added with `addHost`. */
  readonly configFile: string;
  /** `127.0.0.1`’s entry for known_hosts with this server’s ed25519 key. */
  readonly knownLine: string;
  readonly addHost: (alias: string, options: Readonly<Record<string, string>>) => Promise<void>;
  /** Makes `osmosis` on the server this shell script. */
  readonly install: (script: string) => Promise<void>;
  readonly uninstall: () => Promise<void>;
  readonly stop: () => Promise<void>;
};

export async function startSshd(): Promise<Sshd> {
  const dir = await mkdtemp(join(tmpdir(), 'osmosis-sshd-'));
  const port = await freePort();
  const bin = join(dir, 'bin');
  await mkdir(bin);
  for (const type of ['ed25519', 'ecdsa']) await makeKey(join(dir, `host_${type}`), type);
  for (const name of ['user', 'stranger']) await makeKey(join(dir, name), 'ed25519');
  await makeKey(join(dir, 'locked'), 'ed25519', 'a passphrase');
  await copyFile(join(dir, 'user.pub'), join(dir, 'authorized_keys'));
  await writeFile(join(dir, 'sshd_config'), serverConfig(dir, port, bin));
  // Where sshd keeps its unprivileged child; a service manager would make it.
  await mkdir('/run/sshd', { recursive: true, mode: 0o755 });
  const child = spawn(SSHD, ['-D', '-e', '-f', join(dir, 'sshd_config')], {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  let log = '';
  child.stderr.on('data', (chunk) => {
    log += chunk;
  });
  await untilListening(port, child, () => log);
  const hostKey = (await readFile(join(dir, 'host_ed25519.pub'), 'utf8')).split(' ').slice(0, 2).join(' ');
  const knownLine = `[127.0.0.1]:${port} ${hostKey}\n`;
  await writeFile(join(dir, 'known_hosts'), knownLine);
  const configFile = join(dir, 'ssh_config');
  const osmosis = join(bin, 'osmosis');
  let config = '';
  const addHost = async (alias: string, options: Readonly<Record<string, string>>) => {
    const all = { ...clientDefaults(dir, port), ...options };
    config += `Host ${alias}\n${Object.entries(all)
      .map(([keyword, value]) => `  ${keyword} ${value}\n`)
      .join('')}`;
    await writeFile(configFile, config);
  };
  await addHost('good', {});
  return {
    dir,
    port,
    configFile,
    knownLine,
    addHost,
    install: async (script) => {
      await writeFile(osmosis, `#!/bin/sh\n${script}\n`);
      await chmod(osmosis, 0o755);
    },
    uninstall: () => rm(osmosis, { force: true }),
    stop: async () => {
      child.kill();
      await rm(dir, { recursive: true, force: true });
    },
  };
}

function serverConfig(dir: string, port: number, bin: string): string {
  return `
ListenAddress 127.0.0.1:${port}
HostKey ${dir}/host_ed25519
HostKey ${dir}/host_ecdsa
AuthorizedKeysFile ${dir}/authorized_keys
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
PermitRootLogin prohibit-password
PidFile none
LogLevel VERBOSE
# Several key exchanges within one test.
RekeyLimit 16M
SetEnv PATH=${bin}:/usr/bin:/bin
`;
}

function clientDefaults(dir: string, port: number): Readonly<Record<string, string>> {
  return {
    HostName: '127.0.0.1',
    Port: String(port),
    User: userInfo().username,
    IdentityFile: join(dir, 'user'),
    IdentityAgent: 'none',
    IdentitiesOnly: 'yes',
    UserKnownHostsFile: join(dir, 'known_hosts'),
    GlobalKnownHostsFile: 'none',
    StrictHostKeyChecking: 'yes',
  };
}

async function makeKey(path: string, type: string, passphrase = ''): Promise<void> {
  await execa('ssh-keygen', ['-q', '-t', type, '-N', passphrase, '-C', 'test', '-f', path]);
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await new Promise((resolve) => server.once('listening', resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  if (address === null || typeof address === 'string') throw new Error('no TCP port');
  return address.port;
}

async function untilListening(port: number, child: ChildProcess, log: () => string): Promise<void> {
  for (const end = Date.now() + START_MS_MAX; Date.now() < end; await sleep(POLL_MS)) {
    if (child.exitCode !== null) throw new Error(`sshd ended at once: ${log()}`);
    const socket = connect(port, '127.0.0.1');
    const isOpen = await new Promise((resolve) => {
      socket.once('connect', () => resolve(true)).once('error', () => resolve(false));
    });
    socket.destroy();
    if (isOpen) return;
  }
  throw new Error(`sshd does not listen: ${log()}`);
}
