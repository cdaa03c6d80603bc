/** Unix sockets of a tree whose other end is outside of it: CRIU saves both ends or none. */
import { execa } from 'execa';
import type { Check } from '../control/protocol.ts';

const ANSWER_MS_MAX = 5_000;

export type UnixSocket = {
  readonly inode: number;
  /** `*` where it has no name; with a leading @ in the abstract namespace. */
  readonly path: string;
  /** 0 where it is not connected, or not accepted yet. */
  readonly peer: number;
  /** Who has it, where that was asked: `name (pid)`. */
  readonly holder: string | undefined;
};

/** Output of `ss --unix --all --no-header [--processes]`: a path may have spaces in it. */
export function parseUnixSockets(text: string): UnixSocket[] {
  const row = /^\S+\s+\S+\s+\d+\s+\d+\s+(.*?)\s(\d+)\s+\S+\s+(\d+)\s*(?:users:\(\("(.*?)",pid=(\d+))?/;
  return text.split('\n').flatMap((line) => {
    const [, path, inode, peer, name, pid] = row.exec(line) ?? [];
    if (path === undefined) return [];
    const holder = pid === undefined ? undefined : `${name} (pid ${pid})`;
    return [{ inode: Number(inode), path: path.trim(), peer: Number(peer), holder }];
  });
}

/** The first socket of `own` with a peer that is not in `own`. */
export function connectedOutside(
  sockets: readonly UnixSocket[],
  own: ReadonlySet<number>,
): UnixSocket | undefined {
  return sockets.find(({ inode, peer }) => own.has(inode) && peer !== 0 && !own.has(peer));
}

/** `own`: inodes of all sockets of the tree. */
export async function unixChecks(root: number, own: ReadonlySet<number>): Promise<Check[]> {
  if (connectedOutside(await unixSockets(root, []), own) === undefined) return [];
  // Asking who has a socket is a look at every process of the host: only now.
  const sockets = await unixSockets(root, ['--processes']);
  const one = connectedOutside(sockets, own);
  if (one === undefined) return [];
  const other = sockets.find(({ inode }) => inode === one.peer);
  const path = [other?.path, one.path].find((name) => name !== undefined && name !== '*');
  const what = `the process has a unix socket${path === undefined ? '' : ` (${path})`}`;
  const message = `${what} connected to ${other?.holder ?? 'a process'} outside of the tree, which stays behind; close it first`;
  return [{ name: 'sockets', ok: false, message }];
}

async function unixSockets(root: number, more: readonly string[]): Promise<UnixSocket[]> {
  const inside = ['--target', String(root), '--net', '--'];
  const { stdout } = await execa(
    'nsenter',
    [...inside, 'ss', '--unix', '--all', '--numeric', '--no-header', ...more],
    { reject: false, timeout: ANSWER_MS_MAX },
  );
  return parseUnixSockets(stdout ?? '');
}
