/** What orchestrator and agent say to one another: one schema a method, checked on arrival at either end. */
import { z } from 'zod';
import {
  CELL_METHODS,
  type cellSchema,
  type heldSchema,
  type keptCellSchema,
  type relaySchema,
  type remoteCellSchema,
} from './cell-protocol.ts';
import { DOCTOR_METHODS } from './doctor-protocol.ts';
import { DRAIN_METHODS } from './drain-protocol.ts';
import { bytes } from './fields.ts';
import { METRICS_METHODS } from './metrics-protocol.ts';
import {
  type labelSchema,
  MIGRATION_METHODS,
  type peerSchema,
  type remoteHeldSchema,
  type sessionSchema,
} from './migration-protocol.ts';
import type { checkSchema, fileFactSchema, hostFactsSchema, snapshotSchema } from './snapshot.ts';
import { SYNC_METHODS } from './sync-protocol.ts';
import { TERMINAL_METHODS } from './terminal-protocol.ts';
import { TRAFFIC_METHODS } from './traffic-protocol.ts';
import { TRUST_METHODS } from './trust-protocol.ts';

/** Unless the operator says otherwise: an hour. */
export const LEASE_SECONDS = 3_600;

export const METHODS = {
  ...CELL_METHODS,
  ...MIGRATION_METHODS,
  ...TRUST_METHODS,
  ...DRAIN_METHODS,
  ...DOCTOR_METHODS,
  ...SYNC_METHODS,
  ...TRAFFIC_METHODS,
  ...TERMINAL_METHODS,
  ...METRICS_METHODS,
} as const satisfies Record<string, { params: z.ZodType; result: z.ZodType }>;

export type Method = keyof typeof METHODS;
export type Params<M extends Method> = z.infer<(typeof METHODS)[M]['params']>;
export type Result<M extends Method> = z.infer<(typeof METHODS)[M]['result']>;

/** One thing that was looked at before anything is touched; `message` says what was found and how to mend it. */
export type Check = z.infer<typeof checkSchema>;
export type FileFact = z.infer<typeof fileFactSchema>;
export type HostFacts = z.infer<typeof hostFactsSchema>;
/** All that a plan needs to know of a process (tree) and its host. */
export type Snapshot = z.infer<typeof snapshotSchema>;
export type KeptCell = z.infer<typeof keptCellSchema>;
export type CellFact = z.infer<typeof cellSchema>;
export type RemoteCellFact = z.infer<typeof remoteCellSchema>;
export type HeldFact = z.infer<typeof heldSchema>;
/** Connections of one peer without an agent with one cell. */
export type RelayFact = z.infer<typeof relaySchema>;
export type PeerFact = z.infer<typeof peerSchema>;
export type Label = z.infer<typeof labelSchema>;
/** The session key of one peer, computed at migration time by the source, spent by the destination. */
export type PeerSession = z.infer<typeof sessionSchema>;
/** What a host keeps of a suspended cell: it goes along with the end of its connections. */
export type RemoteHeld = z.infer<typeof remoteHeldSchema>;

/** Closes an image stream: what the sender counted. */
export const imageSummarySchema = z.object({ bytes: z.int(), files: z.int(), sha256: bytes(32) });

export const requestSchema = z.object({ id: z.int(), method: z.string(), params: z.unknown() });
export const cancelSchema = z.object({ id: z.int() });
const failureSchema = z.object({
  code: z.string(),
  message: z.string(),
  phase: z.string().optional(),
  owner: z.enum(['source', 'destination', 'file']).optional(),
  cleanup: z.array(z.string()).optional(),
});
export const responseSchema = z.object({
  id: z.int(),
  result: z.unknown().optional(),
  error: failureSchema.optional(),
});

export function isMethod(name: string): name is Method {
  return Object.hasOwn(METHODS, name);
}
