/** Which paths files may be copied to and replaced at; pure. */
import { OsmosisError } from '../error.ts';
import { syncPathSchema } from './entry.ts';

/** What packages of the operating system own. New files may come there, but none that is there is ever replaced. */
const SYSTEM = ['/usr', '/bin', '/sbin', '/lib', '/lib32', '/lib64', '/libx32', '/boot'] as const;
/** Below these is what an administrator has put there. */
const NOT_SYSTEM = ['/usr/local'] as const;
/** What the kernel shows, and what is ours: never touched. /dev/shm is memory that processes share by name. */
const CLOSED = ['/proc', '/sys', '/dev', '/run/osmosis', '/var/lib/osmosis'] as const;
const OPEN = ['/dev/shm'] as const;
/** What a host is made of, as a whole; directories below them are another matter. */
const WHOLE = ['/', '/etc', '/home', '/opt', '/root', '/run', '/srv', '/tmp', '/var', '/var/lib', '/var/log'];

export function isWithin(path: string, directory: string): boolean {
  return path === directory || path.startsWith(directory === '/' ? '/' : `${directory}/`);
}

function isWithinAny(path: string, directories: readonly string[]): boolean {
  return directories.some((directory) => isWithin(path, directory));
}

/** A file there belongs to the operating system, or to the host itself: its own configuration, directly in /etc. */
export function isSystemPath(path: string): boolean {
  if (isWithinAny(path, NOT_SYSTEM)) return false;
  return isWithinAny(path, SYSTEM) || (path.startsWith('/etc/') && !path.slice('/etc/'.length).includes('/'));
}

export function isClosedPath(path: string): boolean {
  return isWithinAny(path, CLOSED) && !isWithinAny(path, OPEN);
}

/** Why a directory can't be copied as a whole, or undefined. */
export function syncPathProblem(path: string): string | undefined {
  if (!syncPathSchema.safeParse(path).success) return 'it has to be an absolute path without . and ..';
  if (isClosedPath(path)) return 'that is of the kernel, or of the agent itself';
  if (WHOLE.includes(path)) return 'that is a part of the host itself; name a directory in it';
  if (isSystemPath(path)) return 'that belongs to the operating system: install the packages on both hosts';
  return undefined;
}

/** @throws OsmosisError USAGE; whoever asks, an agent copies no other directories. */
export function checkTrees(paths: readonly string[]): void {
  for (const path of paths) {
    const problem = syncPathProblem(path);
    if (problem !== undefined)
      throw new OsmosisError('USAGE', `--sync-path ${path}: ${problem}; nothing was touched`);
  }
}

/** A trailing slash says nothing; of directories within one another the outer one is enough. */
export function outermost(paths: readonly string[]): string[] {
  const plain = [...new Set(paths.map((path) => (path === '/' ? path : path.replace(/\/+$/, ''))))];
  return plain.filter((path) => !plain.some((other) => other !== path && isWithin(path, other)));
}
