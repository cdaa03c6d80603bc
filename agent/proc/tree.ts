/** Processes and process trees, from proc_pid_status(5) and /proc/PID/task/TID/children. */
import { procLink, procList, procText } from './text.ts';

/** A tree of more processes than this is refused: CRIU would take it, our bounds would not. */
export const PROCESSES_MAX = 4096;

export type ProcessStatus = {
  readonly pid: number;
  readonly name: string;
  readonly state: string;
  readonly parent: number;
  readonly uid: number;
  readonly threads: number;
  readonly residentBytes: number;
  /** Pids from the outermost namespace (ours) to the innermost. */
  readonly namespacePids: readonly number[];
};

/** `text` of /proc/PID/status; undefined where it is not one. */
export function parseStatus(text: string): ProcessStatus | undefined {
  const fields = new Map(
    text
      .split('\n')
      .map((line) => [line.slice(0, line.indexOf(':')), line.slice(line.indexOf(':') + 1).trim()]),
  );
  const pid = Number(fields.get('Pid') ?? Number.NaN);
  if (!Number.isInteger(pid)) return undefined;
  return {
    pid,
    name: fields.get('Name') ?? '',
    state: (fields.get('State') ?? '').slice(0, 1),
    parent: Number(fields.get('PPid') ?? 0),
    uid: Number((fields.get('Uid') ?? '0').split(/\s+/)[1] ?? 0),
    threads: Number(fields.get('Threads') ?? 1),
    residentBytes: Number((fields.get('VmRSS') ?? '0').split(' ')[0]) * 1024,
    namespacePids: (fields.get('NSpid') ?? String(pid)).split(/\s+/).map(Number),
  };
}

export function processStatus(pid: number): ProcessStatus | undefined {
  const text = procText(`/proc/${pid}/status`);
  return text === undefined ? undefined : parseStatus(text);
}

/** Alive: there, and not a zombie. */
export function isAlive(pid: number): boolean {
  const status = processStatus(pid);
  return status !== undefined && status.state !== 'Z' && status.state !== 'X';
}

export function childrenOf(pid: number): number[] {
  return procList(`/proc/${pid}/task`).flatMap((thread) =>
    (procText(`/proc/${pid}/task/${thread}/children`) ?? '').split(' ').filter(Boolean).map(Number),
  );
}

/** `root` and all below it, parents first. */
export function processTree(root: number): ProcessStatus[] {
  const found: ProcessStatus[] = [];
  const queue = [root];
  for (let pid = queue.shift(); pid !== undefined && found.length <= PROCESSES_MAX; pid = queue.shift()) {
    const status = processStatus(pid);
    if (status === undefined) continue;
    found.push(status);
    queue.push(...childrenOf(pid));
  }
  return found;
}

/** The process that has `innerPid` in the PID namespace of `member` (a host pid), as host pid. */
export function findByInnerPid(member: number, innerPid: number): number | undefined {
  const namespace = procLink(`/proc/${member}/ns/pid`);
  for (const entry of procList('/proc')) {
    if (!/^\d+$/.test(entry) || procLink(`/proc/${entry}/ns/pid`) !== namespace) continue;
    if (processStatus(Number(entry))?.namespacePids.at(-1) === innerPid) return Number(entry);
  }
  return undefined;
}

/** Clock ticks since boot at which `pid` started: together with the pid it names one process for good. */
export function startTicks(pid: number): number | undefined {
  const text = procText(`/proc/${pid}/stat`);
  if (text === undefined) return undefined;
  const ticks = Number(text.slice(text.lastIndexOf(')') + 2).split(' ')[19]);
  return Number.isFinite(ticks) ? ticks : undefined;
}

export function commandLine(pid: number): string {
  const words = (procText(`/proc/${pid}/cmdline`) ?? '').split('\0').filter(Boolean);
  return words.length > 0 ? words.join(' ') : `[${processStatus(pid)?.name ?? '?'}]`;
}
