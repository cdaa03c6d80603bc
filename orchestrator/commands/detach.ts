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

/** Returns once the drain goes on by itself. @throws OsmosisError DRAIN_REFUSED with the log where it did not begin */
export async function detach(host: string, options: DrainCommand, source: AgentClient): Promise<void> {
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
  const exit: { code?: number | null } = {};
  child.once('exit', (code) => {
    exit.code = code;
  });
  const since = Date.now();
  while (exit.code === undefined && Date.now() - since < BEGIN_MS_MAX) {
    const { cordon } = await source.call('status', {});
    if ((cordon?.drain?.updated ?? 0) >= since) break;
    await sleep(POLL_MS);
  }
  child.unref();
  if (exit.code !== undefined && exit.code !== 0)
    throw new OsmosisError(
      'DRAIN_REFUSED',
      `the drain did not begin, or ended at once (status ${exit.code}): see ${log}`,
    );
  if (options.json) printJson({ ok: true, detached: true, host, pid: child.pid, log });
  else
    process.stdout.write(
      `${host} is being drained by process ${child.pid}; osmosis drain --status ${host} says how it goes, ${log} has all of it\n`,
    );
}
