/** Files that the processes of a tree have in use: what they run, map, have open, and where they stand. */
import type { SyncFact } from '../control/sync-protocol.ts';
import { descriptorsOf } from '../proc/descriptors.ts';
import { procLink, procText } from '../proc/text.ts';
import { isClosedPath } from './paths.ts';

export type Need = {
  readonly why: SyncFact['why'];
  /** Below which the path is to be read: the process's own view. */
  readonly root: string;
  readonly writable: boolean;
  /** Written to by way of memory: its times say nothing of that. */
  readonly sharedMemory: boolean;
};

const DELETED = ' (deleted)';
/** proc_pid_maps(5): address, permissions, offset, device, inode, path. */
const MAPPED = /^\S+ (\S{4}) \S+ \S+ \d+\s+(\/.*)$/;
/** O_ACCMODE. */
const READ_ONLY = 0;

/** By path. What is deleted goes along with the image; what the kernel or the agent owns is on every host. */
export function needsOf(pids: readonly number[]): Map<string, Need> {
  const needs = new Map<string, Need>();
  for (const pid of pids) {
    const root = rootOf(pid);
    const add = (path: string | undefined, why: Need['why'], more: Partial<Need> = {}) => {
      if (path === undefined || !path.startsWith('/') || path.endsWith(DELETED) || isClosedPath(path)) return;
      const before = needs.get(path);
      needs.set(path, {
        why: before?.why ?? why,
        root: before?.root ?? root,
        writable: (before?.writable ?? false) || (more.writable ?? false),
        sharedMemory: (before?.sharedMemory ?? false) || (more.sharedMemory ?? false),
      });
    };
    add(procLink(`/proc/${pid}/exe`), 'executable');
    for (const { path, sharedMemory } of mappings(procText(`/proc/${pid}/maps`) ?? ''))
      add(path, 'mapped', { sharedMemory, writable: sharedMemory });
    for (const { fd, link } of descriptorsOf(pid)) {
      if (link.startsWith('/')) add(link, 'open', { writable: isWritable(pid, fd) });
    }
    add(procLink(`/proc/${pid}/cwd`), 'directory');
    add(procLink(`/proc/${pid}/root`), 'directory');
  }
  return needs;
}

/** Links in /proc are told from our own root: one that has changed its root is not seen through it. */
function rootOf(pid: number): string {
  return procLink(`/proc/${pid}/root`) === '/' ? `/proc/${pid}/root` : '/';
}

/** Files in the text of a /proc/PID/maps. */
export function mappings(maps: string): { path: string; sharedMemory: boolean }[] {
  const found = new Map<string, boolean>();
  for (const line of maps.split('\n')) {
    const [, permissions = '', path = ''] = MAPPED.exec(line) ?? [];
    if (path === '' || path.startsWith('/memfd:') || path.startsWith('/SYSV')) continue;
    const sharedMemory = permissions[1] === 'w' && permissions[3] === 's';
    found.set(path, (found.get(path) ?? false) || sharedMemory);
  }
  return [...found].map(([path, sharedMemory]) => ({ path, sharedMemory }));
}

function isWritable(pid: number, fd: number): boolean {
  const flags = /^flags:\s+(\d+)/m.exec(procText(`/proc/${pid}/fdinfo/${fd}`) ?? '')?.[1] ?? '0';
  return (Number.parseInt(flags, 8) & 3) !== READ_ONLY;
}
