/** Failures put into real hosts: a program of a host replaced for a while, a file of /proc covered by another. */
import { execOn, type LabHost, spawnOn } from '../fixtures/lab/hosts.ts';

/** What the product runs by name, and a script may stand in for. */
const PATHS = {
  bpftool: '/usr/sbin/bpftool',
  criu: '/usr/sbin/criu',
  mkfifo: '/usr/bin/mkfifo',
  unshare: '/usr/bin/unshare',
} as const;

/**
 * Until disposed of, `program` on `host` is the shell script `body`, in which "$REAL" is the true one.
 * `set -e` is off; the script gets the program's arguments.
 */
export async function replaceProgram(
  host: LabHost,
  program: keyof typeof PATHS,
  body: string,
): Promise<AsyncDisposable> {
  const path = PATHS[program];
  const real = `/usr/local/sbin/real-${program}`;
  await execOn(host, ['cp', '-a', path, real]);
  return cover(host, path, `#!/bin/sh\nREAL=${real}\n${body}\n`, async () => {
    await execOn(host, ['rm', '-f', real]);
  });
}

/** Until disposed of, reading `path` on `host` gives `content`. */
export async function cover(
  host: LabHost,
  path: string,
  content: string,
  after: () => Promise<void> = async () => undefined,
): Promise<AsyncDisposable> {
  const file = `/tmp/cover-${path.replaceAll('/', '-')}`;
  await execOn(host, ['sh', '-c', 'cat >"$0" && chmod 755 "$0" && mount --bind "$0" "$1"', file, path], {
    input: content,
  });
  return {
    [Symbol.asyncDispose]: async () => {
      await execOn(host, ['umount', '--lazy', path]);
      await execOn(host, ['rm', '-f', file]);
      await after();
    },
  };
}

/** Shell words that end the agent of the host they run on; its supervisor starts it anew. */
export const KILL_AGENT = signalAgent('KILL');

/** Shell words that send a signal to the agent of the host they run on. */
export function signalAgent(signal: 'KILL' | 'STOP' | 'CONT'): string {
  return `pkill -${signal} -f 'osmosis agent$'`;
}

const MARK = '/run/injected';

/** In a replaced program's script: says that the moment has come, and gives `onMark` its time. */
export const MARK_AND_WAIT = `touch ${MARK}; sleep 1`;

/**
 * Runs the shell words `script` on `host` as soon as a replaced program there has marked the moment: outside of the cell,
 * where that program may run. Gives up after 20 s.
 */
export async function onMark(host: LabHost, script: string): Promise<void> {
  const wait = `i=0; until [ -e ${MARK} ] || [ $i -ge 4000 ]; do i=$((i + 1)); sleep 0.005; done; rm -f ${MARK}`;
  await spawnOn(host, ['sh', '-c', `${wait}; ${script}`]);
}

/** Resolves once a replaced program on `host` has marked the moment. Rejects after 20 s. */
export async function untilMarked(host: LabHost): Promise<void> {
  const wait = `i=0; until [ -e ${MARK} ]; do i=$((i + 1)); [ $i -lt 4000 ] || exit 1; sleep 0.005; done; rm -f ${MARK}`;
  await execOn(host, ['sh', '-c', wait]);
}

/**
 * All that a restart of the whole host takes away: its agent's memory and /run, its datapath, and the processes that `pattern`
 * names. Its addresses are there again at once, as is its agent. What is on its disk stays.
 */
export async function rebootHost(host: LabHost, pattern: string): Promise<void> {
  const steps = [
    signalAgent('STOP'),
    `pkill -KILL -f '${pattern}' || true`,
    'for d in eth0 lo; do tc qdisc del dev $d clsact 2>/dev/null; done',
    'umount -l /run/osmosis/bpf 2>/dev/null; find /run/osmosis -mindepth 1 ! -name agent.sock -delete 2>/dev/null',
    'echo > /proc/sys/net/ipv4/ip_local_reserved_ports',
    KILL_AGENT,
  ];
  await execOn(host, ['sh', '-c', steps.join('; ')]);
}

/** Environment of a command of this machine that kills itself at a moment of its work with files. */
export function dyingCommand(at: 'its file is complete' | 'its file is marked'): Record<string, string> {
  const deaths = {
    'its file is complete':
      "const rm = fs.rm; fs.rm = async (path, ...more) => { await rm(path, ...more); if (String(path).endsWith('.partial')) die(); };",
    'its file is marked':
      "const open = fs.open; fs.open = async (path, flags, ...more) => { if (flags === 'r+') die(); return open(path, flags, ...more); };",
  };
  const script =
    "import fs from 'node:fs/promises'; import { syncBuiltinESMExports } from 'node:module'; " +
    `const die = () => process.kill(process.pid, 'SIGKILL'); ${deaths[at]} syncBuiltinESMExports();`;
  return { NODE_OPTIONS: `--import=data:text/javascript,${encodeURIComponent(script)}` };
}
