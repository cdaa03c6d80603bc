/** Terminals of a process tree: one moves where the tree has its other end too, with all that is on its way between them. */
import { statSync } from 'node:fs';
import type { Check } from '../control/protocol.ts';
import type { Descriptor } from './descriptors.ts';
import { procText } from './text.ts';

/** Pseudo-terminals' numbers, include/uapi/linux/major.h: 136 to 143, of 256 each. */
const PTS_MAJOR = 136;
const MINORS = 256;
/** CRIU opens one after the other until it has the number that it needs, so many at most (criu/tty.c). */
const NUMBER_MAX = 31;

export function isTerminal(link: string): boolean {
  return link.startsWith('/dev/pts/') ? link !== '/dev/pts/ptmx' : link.startsWith('/dev/tty');
}

/** The check `terminal`: absent where there is none, and good where every one has its other end in the tree. */
export function terminalChecks(descriptors: readonly Descriptor[]): Check[] {
  const used = descriptors.filter(({ link }) => isTerminal(link));
  const masters = new Set(
    descriptors
      .filter(({ link }) => link === '/dev/pts/ptmx' || link === '/dev/ptmx')
      .flatMap((master) => masterKey(master) ?? []),
  );
  if (used.length === 0 && masters.size === 0) return [];
  const outside = used.find((one) => !masters.has(userKey(one) ?? ''));
  if (outside === undefined) return [{ name: 'terminal', ok: true, message: `${masters.size} in the tree` }];
  const { pid, fd, link } = outside;
  const remedy =
    'start it with its input and output redirected, or with osmosis run (-t: in a terminal that moves)';
  const message = `process ${pid} has the terminal ${link} open (fd ${fd}), which stays behind; ${remedy}`;
  return [{ name: 'terminal', ok: false, message }];
}

/** Of an end that makes a terminal: the instance of devpts, and its number in there. */
function masterKey({ pid, fd }: Descriptor): string | undefined {
  const number = /^tty-index:\s+(\d+)/m.exec(procText(`/proc/${pid}/fdinfo/${fd}`) ?? '')?.[1];
  return number === undefined || Number(number) > NUMBER_MAX ? undefined : `${ownTerminals(pid)} ${number}`;
}

/** The same of an end that is used as a terminal. */
function userKey({ pid, fd, link }: Descriptor): string | undefined {
  if (link === '/dev/tty') {
    const number = controlling(procText(`/proc/${pid}/stat`) ?? '');
    return number === undefined ? undefined : `${ownTerminals(pid)} ${number}`;
  }
  const number = /^\/dev\/pts\/(\d+)$/.exec(link)?.[1];
  return number === undefined ? undefined : `${deviceOf(`/proc/${pid}/fd/${fd}`)} ${number}`;
}

/** Which instance of devpts /dev/pts is where the process looks. */
function ownTerminals(pid: number): number {
  return deviceOf(`/proc/${pid}/root/dev/pts`);
}

function deviceOf(path: string): number {
  try {
    return statSync(path).dev;
  } catch {
    return -1;
  }
}

/** The number of the pseudo-terminal that controls a process; `stat`: proc_pid_stat(5), tty_nr is its seventh field. */
export function controlling(stat: string): number | undefined {
  const device = Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[4]);
  const major = (device >> 8) & 0xfff;
  const minor = (device & 0xff) | ((device >> 12) & 0xfff00);
  return major >= PTS_MAJOR && major < PTS_MAJOR + 8 ? (major - PTS_MAJOR) * MINORS + minor : undefined;
}
