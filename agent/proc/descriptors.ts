/** Open descriptors of a process tree, and what stands at their other ends. */
import { procLink, procList, procText } from './text.ts';

export type Descriptor = { readonly pid: number; readonly fd: number; readonly link: string };

export function descriptorsOf(pid: number): Descriptor[] {
  return procList(`/proc/${pid}/fd`).flatMap((fd) => {
    const link = procLink(`/proc/${pid}/fd/${fd}`);
    return link === undefined ? [] : [{ pid, fd: Number(fd), link }];
  });
}

export function socketInode(link: string): number | undefined {
  const match = /^socket:\[(\d+)\]$/.exec(link);
  return match?.[1] === undefined ? undefined : Number(match[1]);
}

/** Pipes (by link) of which the tree holds one end only: what stands at the other end stays behind. */
export function outsidePipes(descriptors: readonly Descriptor[]): string[] {
  const ends = new Map<string, Set<'r' | 'w'>>();
  for (const { pid, fd, link } of descriptors) {
    if (!link.startsWith('pipe:[')) continue;
    const held = ends.get(link) ?? new Set();
    for (const end of endsHeld(pid, fd)) held.add(end);
    ends.set(link, held);
  }
  return [...ends].filter(([, held]) => held.size < 2).map(([link]) => link);
}

/** O_ACCMODE of proc_pid_fdinfo(5). */
function endsHeld(pid: number, fd: number): ('r' | 'w')[] {
  const flags = Number.parseInt(
    /^flags:\s+(\d+)/m.exec(procText(`/proc/${pid}/fdinfo/${fd}`) ?? '')?.[1] ?? '0',
    8,
  );
  return (flags & 3) === 0 ? ['r'] : (flags & 3) === 1 ? ['w'] : ['r', 'w'];
}
