/** Opens files that others may be writing, renaming and removing meanwhile. */
import { closeSync, constants, fstatSync, openSync } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { messageOf, OsmosisError } from '../error.ts';
import { beneath, isAbsent } from './beneath.ts';

const { O_NOATIME, O_NOFOLLOW, O_NONBLOCK, O_RDONLY } = constants;

/** Undefined where it is gone. No link is followed, nothing is waited for, and nobody sees that it was read. */
export async function openToRead(root: string, path: string): Promise<FileHandle | undefined> {
  try {
    const fd = beneath(root, path, (place) =>
      openSync(place, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOATIME),
    );
    try {
      // By descriptor: Node makes a handle of a path only.
      return fstatSync(fd).isFile() ? await open(`/proc/self/fd/${fd}`, O_RDONLY | O_NOATIME) : undefined;
    } finally {
      closeSync(fd);
    }
  } catch (cause) {
    if (isAbsent(cause)) return undefined;
    throw new OsmosisError(
      'SYNC_FAILED',
      `${path} can't be read: ${messageOf(cause)}; the process goes on at the source`,
      { cause },
    );
  }
}
