/** `osmosis drain --detach`: the same command again, without a terminal, with a log. */
import { spawn } from 'node:child_process';
import { closeSync, mkdirSync, openSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { OsmosisError } from '../../agent/error.ts';
import type { AgentClient } from '../agent-client.ts';
import type { DrainCommand } from './drain.ts';
import { printJson } from './hosts.ts';

/** The other process has written down at the host that it drains it within this. */
const BEGIN_MS_MAX = 60_000;
const POLL_MS = 100;

/** The same drain without --detach: no question, JSON lines. */
export function drainArgv(host: string, options: DrainCommand): string[] {
  const given = (flag: string, value: string | number | undefined) =>
    value === undefined ? [] : [flag, String(value)];
  return [
    ...given('--ssh-config', options.sshConfig),
    ...given('--fleet', options.fleet),
    'drain',
    ...(options.self ? ['--self'] : [host]),
    ...given('--to', options.to),
    ...given('--parallel', options.parallel),
    ...given('--deadline', options.deadline),
    ...given('--select', options.select),
    ...given('--legacy', options.legacy),
    ...(options.sync ? ['--sync'] : []),
    ...given('--reason', options.reason),
    '--yes',
    '--json',
  ];
}

/**
 * Returns once the drain goes on by itself. `stop`: what is passed on to it until then.
 * @throws OsmosisError DRAIN_REFUSED with the log where it did not begin, INTERRUPTED
 */
export async function detach(
  host: string,
  options: DrainCommand,
  source: AgentClient,
  stop: AbortSignal,
): Promise<void> {
  const directory = join(process.env.XDG_STATE_HOME || join(homedir(), '.local/state'), 'osmosis');
  mkdirSync(directory, { recursive: true, mode: 0o700 });
  const stamp = new Date().toISOString().replace(/[:.]/g, '-');
  const log = join(directory, `drain-${host.replace(/[^A-Za-z0-9.-]+/g, '-')}-${stamp}.log`);
  const file = openSync(log, 'ax', 0o600);
  const cli = process.argv[1] ?? '';
  const child = spawn(process.execPath, [cli, ...drainArgv(host, options)], {
    detached: true,
    stdio: ['ignore', file, file],
  });
  closeSync(file);
  // However this ends, nobody waits for it.
  child.unref();
  let ended: string | undefined;
  child.once('exit', (code, signal) => {
    ended = code === null ? `signal ${signal}` : `status ${code}`;
  });
  child.once('error', ({ message }) => {
    ended = message;
  });
  // The terminal's own Ctrl-C does not reach a process that is detached.
  const onStop = () => void child.kill('SIGINT');
  stop.addEventListener('abort', onStop, { once: true });
  const since = Date.now();
  while (ended === undefined && !stop.aborted && Date.now() - since < BEGIN_MS_MAX) {
    const { cordon } = await source.call('status', {});
    if ((cordon?.drain?.updated ?? 0) >= since) break;
    await sleep(POLL_MS);
  }
  stop.removeEventListener('abort', onStop);
  if (stop.aborted)
    throw new OsmosisError(
      'INTERRUPTED',
      `the drain of ${host} (process ${child.pid}) begins no move any more; those in flight end. ${log} has all of it`,
    );
  if (ended !== undefined && ended !== 'status 0')
    throw new OsmosisError(
      'DRAIN_REFUSED',
      `the drain did not begin, or ended at once (${ended}): see ${log}`,
    );
  if (options.json) printJson({ ok: true, detached: true, host, pid: child.pid, log });
  else
    process.stdout.write(
      `${host} is being drained by process ${child.pid}; osmosis drain --status ${host} says how it goes, ${log} has all of it\n`,
    );
}
