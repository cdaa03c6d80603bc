/** A thing that goes along, as it is to be at the destination. */
import { z } from 'zod';

/** PATH_MAX of limits.h. */
const PATH_BYTES_MAX = 4096;
const MODE_MAX = 0o7777;

/** Absolute, as the kernel says it: no `.`, `..` or empty part. */
export const syncPathSchema = z
  .string()
  .refine(
    (path) => path.startsWith('/') && Buffer.byteLength(path) < PATH_BYTES_MAX && isPlain(path),
    'must be an absolute path without . and ..',
  );

export const syncEntrySchema = z.object({
  path: syncPathSchema,
  type: z.enum(['file', 'directory', 'symlink']),
  mode: z.int().min(0).max(MODE_MAX),
  uid: z.int().min(0),
  gid: z.int().min(0),
  /** ms since the epoch, to the microsecond. */
  mtime: z.number(),
  /** Of a link: where it leads. */
  target: z.string().max(PATH_BYTES_MAX).optional(),
});
/** A file, directory or link as it is to be. */
export type SyncEntry = z.infer<typeof syncEntrySchema>;

function isPlain(path: string): boolean {
  if (path === '/') return true;
  const parts = path.slice(1).split('/');
  return parts.every((part) => part !== '' && part !== '.' && part !== '..') && !path.includes('\0');
}
