/** Unix sockets of a tree whose other end is outside of it: CRIU saves both ends, or leaves out one that it is told to. */
import { execa } from 'execa';
import type { Check, Snapshot } from '../control/protocol.ts';
import { type Descriptor, socketInode } from './descriptors.ts';

const ANSWER_MS_MAX = 5_000;
/** Standard error. */
const STANDARD_FD_MAX = 2;
/** Of more descriptors than this, the first are named. */
const HOLDERS_MAX = 4;

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

/** The sockets of `own` with a peer that is not in `own`. */
export function connectedOutside(sockets: readonly UnixSocket[], own: ReadonlySet<number>): UnixSocket[] {
  return sockets.filter(({ inode, peer }) => own.has(inode) && peer !== 0 && !own.has(peer));
}

export type OutsideUnix = { readonly checks: Check[]; readonly outside: Snapshot['outside'] };

/**
 * Standard input, output and error that somebody else has given to the tree (journald's, of every systemd service) may be
 * left behind, as pipes are; any other such socket is in the way.
 */
export async function unixOutside(root: number, descriptors: readonly Descriptor[]): Promise<OutsideUnix> {
  const own = new Set(descriptors.flatMap(({ link }) => socketInode(link) ?? []));
  if (connectedOutside(await unixSockets(root, []), own).length === 0) return { checks: [], outside: [] };
  // Asking who has a socket is a look at every process of the host: only now.
  const sockets = await unixSockets(root, ['--processes']);
  return sorted(sockets, own, descriptors);
}

export function sorted(
  sockets: readonly UnixSocket[],
  own: ReadonlySet<number>,
  descriptors: readonly Descriptor[],
): OutsideUnix {
  const checks: Check[] = [];
  const outside: Snapshot['outside'] = [];
  for (const one of connectedOutside(sockets, own)) {
    const other = sockets.find(({ inode }) => inode === one.peer);
    const path = [other?.path, one.path].find((name) => name !== undefined && name !== '*');
    const to = `${other?.holder ?? 'a process'}${path === undefined ? '' : ` at ${path}`}`;
    const resource = `socket:[${one.inode}]`;
    const held = descriptors.filter(({ link }) => link === resource);
    if (held.every(({ fd }) => fd <= STANDARD_FD_MAX)) {
      const ends = held.slice(0, HOLDERS_MAX).map(({ pid, fd }) => `pid ${pid} fd ${fd}`);
      outside.push({ resource, external: true, what: `a unix socket (${ends.join(', ')}) to ${to}` });
    } else {
      const message = `the process has a unix socket connected to ${to}, outside of the tree, which stays behind; close it first`;
      checks.push({ name: 'sockets', ok: false, message });
    }
  }
  return { checks, outside };
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
