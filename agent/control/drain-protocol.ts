/** What orchestrator and agent say to one another about placement and draining; a part of METHODS in protocol.ts. */
import { z } from 'zod';

/** Placement labels of one cell or host. */
const PLACEMENT_MAX = 32;
/** Letters, digits, . _ - and / (as Kubernetes has them), 63 at most. */
const word = z.string().regex(/^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}$/);
/** What an operator says of a cell, for where it may be placed; not the wire labels of its flows. */
export const placementSchema = z
  .record(word, z.union([word, z.literal('')]))
  .refine((labels) => Object.keys(labels).length <= PLACEMENT_MAX, `at most ${PLACEMENT_MAX} labels`);
export type Placement = z.infer<typeof placementSchema>;

/** Cells of one host that a drain tells of. */
const DRAIN_CELLS_MAX = 4096;

/** What became of one cell of a drain. */
const drainRowSchema = z.object({
  cell: z.string().max(64),
  state: z.enum(['waiting', 'moving', 'moved', 'left', 'gone']),
  to: z.string().max(256).optional(),
  flows: z.object({ moved: z.int(), relayed: z.int(), lost: z.int() }).optional(),
  blackout_ms: z.number().optional(),
  /** ms from the freeze until the process ran and every peer had acknowledged where. */
  gap_ms: z.number().optional(),
  code: z.string().max(64).optional(),
  message: z.string().max(4096).optional(),
});
export type DrainRow = z.infer<typeof drainRowSchema>;

const drainRecordSchema = z.object({
  /** Who drives it: user, host and process, for people. */
  by: z.string().max(256),
  state: z.enum(['running', 'done', 'left', 'deadline', 'stopped', 'refused']),
  /** ms since the epoch. */
  started: z.number(),
  updated: z.number(),
  deadline: z.number().optional(),
  cells: z.array(drainRowSchema).max(DRAIN_CELLS_MAX),
});
export type DrainRecord = z.infer<typeof drainRecordSchema>;

export const cordonSchema = z.object({
  /** ms since the epoch. */
  since: z.number(),
  reason: z.string().max(256).optional(),
  /** The last drain. */
  drain: drainRecordSchema.optional(),
});
export type CordonRecord = z.infer<typeof cordonSchema>;

export const DRAIN_METHODS = {
  /** No cell is placed here any more; those that are here stay. */
  cordon: {
    params: z.object({ reason: z.string().max(256).optional(), dry_run: z.boolean() }),
    /** `changed`: false where it was cordoned before. */
    result: z.object({ changed: z.boolean(), cordon: cordonSchema }),
  },
  /** How a drain of this host goes on; nothing is kept of it once the host was uncordoned. */
  'drain.record': { params: z.object({ drain: drainRecordSchema }), result: z.object({}) },
  uncordon: {
    params: z.object({ dry_run: z.boolean() }),
    result: z.object({ changed: z.boolean() }),
  },
} as const satisfies Record<string, { params: z.ZodType; result: z.ZodType }>;
