/** Files that a process tree needs where it goes: executables, mapped and open files, working directories. */
import { closeSync, openSync, readSync, statSync } from 'node:fs';
import type { FileFact } from '../control/protocol.ts';
import { descriptorsOf } from './descriptors.ts';
import { procLink, procText } from './text.ts';

/** Files are read through /proc/PID/root, so that they are the process's own whatever its mount namespace. */
export function filesOf(pids: readonly number[]): FileFact[] {
  const files = new Map<string, FileFact>();
  const add = (fact: FileFact | undefined) => {
    if (fact !== undefined && !files.has(fact.path)) files.set(fact.path, fact);
  };
  for (const pid of pids) {
    const root = `/proc/${pid}/root`;
    const executable = procLink(`/proc/${pid}/exe`);
    if (executable !== undefined) add(fileFact(root, executable, 'executable'));
    for (const path of mappedFiles(procText(`/proc/${pid}/maps`) ?? '')) add(fileFact(root, path, 'mapped'));
    const cwd = procLink(`/proc/${pid}/cwd`);
    if (cwd !== undefined) add(fileFact(root, cwd, 'directory'));
    for (const { link } of descriptorsOf(pid)) {
      if (link.startsWith('/') && !link.endsWith(' (deleted)')) add(fileFact(root, link, 'open'));
    }
  }
  return [...files.values()];
}

export function mappedFiles(maps: string): string[] {
  const paths = maps.split('\n').flatMap((line) => {
    const at = line.indexOf('/');
    const path = at < 0 ? '' : line.slice(at);
    return path === '' ||
      path.endsWith(' (deleted)') ||
      path.startsWith('/dev/') ||
      path.startsWith('/memfd:') ||
      path.startsWith('/SYSV')
      ? []
      : [path];
  });
  return [...new Set(paths)];
}

/** What `path` is below `root`, or undefined where nothing is there. */
export function fileFact(root: string, path: string, kind: FileFact['kind']): FileFact | undefined {
  try {
    const stat = statSync(root + path);
    if (stat.isDirectory()) return { path, kind: 'directory' };
    if (!stat.isFile())
      return path.startsWith('/dev/') && !path.startsWith('/dev/pts/') ? { path, kind: 'device' } : undefined;
    const buildId = kind === 'open' ? undefined : readBuildId(root + path);
    return { path, kind, size: stat.size, ...(buildId === undefined ? {} : { build_id: buildId }) };
  } catch {
    return undefined;
  }
}

/** A build-id note stands near the front of every ELF file that a linker of ours made; CRIU looks in the first page too. */
const BUILD_ID_SEARCH_BYTES = 4096;
const NOTE_HEADER = Buffer.from([4, 0, 0, 0, 20, 0, 0, 0, 3, 0, 0, 0, 0x47, 0x4e, 0x55, 0]);

/** elf(5): NT_GNU_BUILD_ID, SHA-1 sized; undefined for other files. */
function readBuildId(path: string): string | undefined {
  const head = Buffer.alloc(BUILD_ID_SEARCH_BYTES);
  const fd = openSync(path, 'r');
  try {
    const count = readSync(fd, head, 0, head.length, 0);
    if (head.toString('latin1', 0, 4) !== '\x7fELF') return undefined;
    const at = head.indexOf(NOTE_HEADER);
    if (at < 0 || at + NOTE_HEADER.length + 20 > count) return undefined;
    return head.toString('hex', at + NOTE_HEADER.length, at + NOTE_HEADER.length + 20);
  } finally {
    closeSync(fd);
  }
}
