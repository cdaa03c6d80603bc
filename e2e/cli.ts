/** The command line as a person runs it from the checkout, against the lab. */
import { fileURLToPath } from 'node:url';
import { execa } from 'execa';
import { type LabHost, SSH_CONFIG_PATH } from '../fixtures/lab/hosts.ts';

const CLI = fileURLToPath(new URL('../orchestrator/cli.js', import.meta.url));
const COMMAND_MS_MAX = 90_000;

export type Outcome = {
  readonly exitCode: number;
  readonly object: Record<string, unknown>;
  readonly stdout: string;
  readonly stderr: string;
};

export type RunOptions = {
  signal?: AbortSignal;
  interrupt?: 'SIGINT' | 'SIGTERM' | 'SIGKILL';
  env?: Record<string, string>;
};

/** Runs `osmosis ARGS`; `object` is the last line of standard output where that is JSON. */
export async function osmosis(
  args: readonly string[],
  { signal, interrupt = 'SIGTERM', env = {} }: RunOptions = {},
): Promise<Outcome> {
  const { exitCode, stdout, stderr, shortMessage } = await execa(process.execPath, [CLI, ...args], {
    reject: false,
    timeout: COMMAND_MS_MAX,
    env: { OSMOSIS_SSH_CONFIG: SSH_CONFIG_PATH, ...env },
    ...(signal === undefined
      ? {}
      : { cancelSignal: signal, killSignal: interrupt, forceKillAfterDelay: false }),
  });
  // It did not start, or did not end by itself: then it could say nothing, and execa says why.
  const said = exitCode === undefined ? `${stderr}\n${shortMessage}` : stderr;
  return { exitCode: exitCode ?? 255, object: lastObject(stdout), stdout, stderr: said };
}

function lastObject(stdout: string): Record<string, unknown> {
  const line = stdout.trim().split('\n').at(-1) ?? '';
  return line.startsWith('{') ? (JSON.parse(line) as Record<string, unknown>) : {};
}

export function migrateArgs(
  target: string | number,
  from: LabHost,
  to: LabHost,
  ...more: string[]
): string[] {
  return ['migrate', String(target), '--from', `ssh://${from}`, '--to', `ssh://${to}`, '--json', ...more];
}

export type Moved = {
  cell: string;
  pid: number;
  flows: { moved: number; relayed: number; lost: number };
  blackout_ms: number;
  datagram_bytes_lost: number;
};

/** A migration that must succeed. */
export async function move(
  target: string | number,
  from: LabHost,
  to: LabHost,
  ...more: string[]
): Promise<Moved> {
  const { object, exitCode, stderr } = await osmosis(migrateArgs(target, from, to, ...more));
  if (object.ok !== true || exitCode !== 0)
    throw new Error(`migrate ${from} → ${to} exited with ${exitCode}: ${JSON.stringify(object)} ${stderr}`);
  return object as unknown as Moved;
}

/** What `osmosis ps` says of a host, of which the caller knows the shape. */
export async function statusOf<Status>(host: LabHost): Promise<Status> {
  const { object } = await osmosis(['ps', `ssh://${host}`, '--json']);
  const [status] = object.hosts as Status[];
  if (status === undefined) throw new Error(`no status of ${host}`);
  return status;
}
