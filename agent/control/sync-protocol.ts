/** Files that a process needs where it goes: listed at the source, compared and written at the destination. */
import { z } from 'zod';
import { syncEntrySchema, syncPathSchema } from '../sync/entry.ts';
import { SYNC_ENTRIES_MAX } from '../wire/sync.ts';
import { id } from './fields.ts';

/** Directories that are named to be copied as a whole. */
const SYNC_PATHS_MAX = 256;

const sync = { sync: id };
const pathsSchema = z.array(syncPathSchema).max(SYNC_ENTRIES_MAX);
const treesSchema = z.array(syncPathSchema).max(SYNC_PATHS_MAX);
const none = z.object({});

const syncFactSchema = syncEntrySchema.extend({
  /** `parent`: a directory above one that is needed; `tree`: in a directory that was named. */
  why: z.enum(['executable', 'mapped', 'open', 'directory', 'parent', 'tree']),
  size: z.number(),
  /** Bytes on disk: less than `size` where the file has holes. */
  allocated: z.number(),
  build_id: z.string().optional(),
  /** The process can write to it as it stands. */
  writable: z.boolean().optional(),
  /** On a file system that hosts share, such as NFS: it is never copied. */
  shared: z.boolean().optional(),
});
/** A file, directory or link that goes along, as it is at the source. */
export type SyncFact = z.infer<typeof syncFactSchema>;

const syncFoundSchema = z.object({
  type: z.enum(['file', 'directory', 'symlink', 'other']),
  mode: z.int(),
  uid: z.int(),
  gid: z.int(),
  size: z.number(),
  build_id: z.string().optional(),
  target: z.string().optional(),
  /** SHA-256, of a file that was to be compared by what is in it. */
  hash: z.string().optional(),
});
/** What the destination has at a path. */
export type SyncFound = z.infer<typeof syncFoundSchema>;

export const SYNC_METHODS = {
  /** Begins at the source. `cell`: of an `inspect` before. */
  'sync.list': {
    params: z.object({ ...sync, cell: id, paths: treesSchema }),
    result: z.object({
      facts: z.array(syncFactSchema).max(SYNC_ENTRIES_MAX),
      /** What is left out, and why that is no harm. */
      notes: z.array(z.string()),
      /** What can't be copied: the move is refused. */
      problems: z.array(z.string()),
    }),
  },
  /** SHA-256 of files at the source, in the order that they are named in; null where one is gone. */
  'sync.hash': {
    params: z.object({ ...sync, paths: pathsSchema }),
    result: z.object({ hashes: z.array(z.string().nullable()) }),
  },
  /** Begins at the destination; nothing is touched. */
  'sync.compare': {
    params: z.object({
      ...sync,
      facts: z.array(syncFactSchema).max(SYNC_ENTRIES_MAX),
      /** Directories that were named: what only the destination has in them is told as well. */
      trees: treesSchema,
    }),
    result: z.object({
      /** As `facts`; null where nothing is there. */
      found: z.array(syncFoundSchema.nullable()),
      /** Of those that are not there: the number of the file system where they would be. */
      places: z.array(z.int()),
      /** By that number. */
      rooms: z.array(z.object({ path: z.string(), free_bytes: z.number() })),
      extra: z.array(z.string()),
      /** By path: why nothing can be compared or put there. */
      problems: z.array(z.object({ path: z.string(), problem: z.string() })),
    }),
  },
  /** From here on files are written, and taken away again when the connection ends before the move is decided. */
  'sync.begin': {
    params: z.object({
      ...sync,
      trees: treesSchema,
      /** What is there, differs, and gives way. */
      replace: pathsSchema,
      /** What is only at the destination, and goes. */
      remove: pathsSchema,
      /** What is as at the source. */
      same: pathsSchema,
    }),
    result: none,
  },
  /**
   * One pass: all that the destination has not, or not as it is now. The stream comes before the answer. `same`, of the
   * first one: paths that the destination has already; `leave`: those that are not to be sent at all.
   */
  'sync.read': {
    params: z.object({
      ...sync,
      same: pathsSchema,
      leave: pathsSchema,
      /** The process stands still. */
      final: z.boolean(),
    }),
    /** `files`: that were not sent before. `unsteady`: that changed while they were read. */
    result: z.object({ files: z.int(), bytes: z.number(), unsteady: z.array(z.string()) }),
  },
  'sync.write': {
    params: z.object({ ...sync, final: z.boolean() }),
    result: z.object({ files: z.int(), bytes: z.number() }),
  },
  /** Everything at the destination is as it was. */
  'sync.undo': { params: z.object(sync), result: z.object({ left: z.array(z.string()) }) },
} as const satisfies Record<string, { params: z.ZodType; result: z.ZodType }>;
