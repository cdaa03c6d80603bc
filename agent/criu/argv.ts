/** The argument vectors of CRIU and nsenter; pure. */
import { fileURLToPath } from 'node:url';

export const HOOK_PATH = fileURLToPath(new URL('./hook.sh', import.meta.url));

/** Shared by dump and restore: our own fence stands in for CRIU's network lock, and our cells for its cgroup handling. */
const COMMON = [
  '--tcp-established',
  '--network-lock',
  'skip',
  '--shell-job',
  '--file-locks',
  '--manage-cgroups=ignore',
  '--action-script',
  HOOK_PATH,
  '-v2',
] as const;

/** CRIU saves a file that is open but deleted up to this size; more is a reason to refuse. */
const GHOST_BYTES_MAX = 256 * 1024 * 1024;

/**
 * `pid` as seen in the PID namespace that CRIU runs in. `external`: unix sockets, `socket:[INODE]`, whose other end is
 * outside; the restore is given something else in their place.
 */
export function dumpArgv(pid: number, directory: string, external: readonly string[] = []): string[] {
  return [
    'criu',
    'dump',
    '--tree',
    String(pid),
    '--images-dir',
    directory,
    '--log-file',
    'dump.log',
    '--ghost-limit',
    String(GHOST_BYTES_MAX),
    ...COMMON,
    ...external.flatMap((resource) => ['--external', resource.replace('socket:', 'unix')]),
  ];
}

/** `inherited`: resource names of CRIU, each given the descriptor of that index in `firstFd`, `firstFd` + 1, … */
export function restoreArgv(directory: string, inherited: readonly string[], firstFd: number): string[] {
  return [
    'criu',
    'restore',
    '--restore-detached',
    '--images-dir',
    directory,
    '--log-file',
    'restore.log',
    '--pidfile',
    'restored.pid',
    ...COMMON,
    ...inherited.flatMap((resource, index) => ['--inherit-fd', `fd[${firstFd + index}]:${resource}`]),
  ];
}

export type Namespaces = 'host' | { readonly init: number; readonly net: boolean };

/** `argv` as it runs inside the namespaces of a cell (those of its init), or unchanged at home. */
export function insideArgv(namespaces: Namespaces, argv: readonly string[]): string[] {
  if (namespaces === 'host') return [...argv];
  const { init, net } = namespaces;
  return ['nsenter', '--target', String(init), '--pid', '--mount', ...(net ? ['--net'] : []), '--', ...argv];
}

/**
 * `argv`, started now and run when a line comes on standard input: starting a program from an agent, and entering a cell,
 * takes longer than telling it to go on. Ends by itself where that is closed before.
 */
export function heldArgv(argv: readonly string[]): string[] {
  return ['sh', '-c', 'read -r _ && exec "$@" </dev/null', 'sh', ...argv];
}

/** A restored tree needs a session id that exists in its own PID namespace, or the next dump refuses it. */
export function inOwnSession(argv: readonly string[]): string[] {
  return ['setsid', ...argv];
}
