/** Runs CRIU for one half of a migration, and tells what came of it. */
import { spawn } from 'node:child_process';
import { existsSync, readFileSync, watch } from 'node:fs';
import { join } from 'node:path';

/** Lines of CRIU's log that an error message quotes. */
const LOG_LINES_MAX = 4;

/** What CRIU calls an error and goes on after. */
const HARMLESS = /Can't setup RLIMIT_NOFILE for self/;

export type CriuExit = { readonly status: number | undefined; readonly signal: string | undefined };

export type HeldCriu = {
  /** Tells it to begin, and settles when it has ended, whatever its status; never rejects. */
  begin(): Promise<CriuExit>;
  /** Ends it where it has not begun. */
  end(): void;
};

type Options = {
  readonly env: Record<string, string>;
  /** Descriptors for 3, 4, … of the child. */
  readonly descriptors?: readonly number[];
};

/**
 * Starts `argv`, which waits as heldArgv has it, in a session of its own: neither a signal to the agent's group nor the
 * agent's end may stop a CRIU that holds a frozen process. Its hook has its own deadline.
 */
export function holdCriu([file, ...args]: readonly string[], { env, descriptors = [] }: Options): HeldCriu {
  // Not through execa: it hands a child no descriptors of ours beyond the first three.
  const child = spawn(file ?? 'criu', args, {
    detached: true,
    env: { ...process.env, ...env },
    stdio: ['pipe', 'ignore', 'ignore', ...descriptors],
  });
  child.unref();
  // One that has ended already: how it has says `exited`.
  child.stdin?.on('error', () => {});
  const exited = new Promise<CriuExit>((resolve) => {
    child.once('exit', (status, signal) =>
      resolve({ status: status ?? undefined, signal: signal ?? undefined }),
    );
    child.once('error', () => resolve({ status: undefined, signal: undefined }));
  });
  return {
    begin: () => {
      child.stdin?.end('\n');
      return exited;
    },
    end: () => void child.stdin?.end(),
  };
}

/** The last errors of a CRIU log, for people; a hint where there is none. */
export function criuErrors(directory: string, log: 'dump.log' | 'restore.log'): string {
  const path = join(directory, log);
  if (!existsSync(path)) return 'CRIU wrote no log; is it installed?';
  const errors = readFileSync(path, 'utf8')
    .split('\n')
    .filter((line) => line.includes('Error') && !HARMLESS.test(line))
    .map((line) =>
      line
        .replace(/^\([\d.]+\)\s*/, '')
        .replace(/^\s*\d+:\s*/, '')
        .trim(),
    );
  return errors.length === 0 ? 'CRIU named no error' : errors.slice(0, LOG_LINES_MAX).join('; ');
}

/** Resolves true when `name` appears in `directory`; false when `ended` settles first. */
export async function markerAppears(
  directory: string,
  name: string,
  ended: Promise<unknown>,
  signal: AbortSignal,
): Promise<boolean> {
  signal.throwIfAborted();
  const path = join(directory, name);
  let onAbort: (() => void) | undefined;
  const watcher = watch(directory);
  try {
    return await new Promise<boolean>((resolve, reject) => {
      const look = () => existsSync(path) && resolve(true);
      onAbort = () => reject(signal.reason);
      signal.addEventListener('abort', onAbort, { once: true });
      watcher.on('change', look);
      watcher.on('error', reject);
      void ended.then(() => resolve(existsSync(path)));
      look();
    });
  } finally {
    watcher.close();
    if (onAbort !== undefined) signal.removeEventListener('abort', onAbort);
  }
}
