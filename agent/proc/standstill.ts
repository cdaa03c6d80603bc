/** Whether a process tree stands still under ptrace(2), as CRIU holds it while it saves it. */
import { setTimeout as sleep } from 'node:timers/promises';
import { procText } from './text.ts';
import { processTree } from './tree.ts';

/** A file is read for each look. CRIU takes longer than this from stopping a tree to reading its sockets. */
const LOOK_EVERY_MS = 2;
const TRACED = /^TracerPid:\t[1-9]/m;

/**
 * Resolves true when every process of the tree of `root` is traced, and false when `ended` settles or `signal` fires before
 * that, or there is no such process. Not by their state: they run again, CRIU's own code, soon after they were stopped.
 */
export async function untilTraced(
  root: number,
  ended: Promise<unknown>,
  signal: AbortSignal,
): Promise<boolean> {
  let hasEnded = false;
  void ended.then(() => {
    hasEnded = true;
  });
  while (!hasEnded && !signal.aborted) {
    const status = procText(`/proc/${root}/status`);
    if (status === undefined) return false;
    if (TRACED.test(status) && processTree(root).every(({ pid, state }) => state === 'Z' || isTraced(pid)))
      return true;
    await sleep(LOOK_EVERY_MS);
  }
  return false;
}

/** What has gone meanwhile says nothing more. */
function isTraced(pid: number): boolean {
  const status = procText(`/proc/${pid}/status`);
  return status === undefined || TRACED.test(status);
}
