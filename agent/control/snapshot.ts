/** A process (tree) and its host, as a plan sees them. */
import { z } from 'zod';
import { PROTOCOLS } from '../address.ts';
import { FOLLOW_ROWS_MAX } from '../wire/h2o-follow.ts';
import { placementSchema } from './drain-protocol.ts';
import {
  endpointSchema,
  FLOWS_MAX,
  flowSchema,
  id,
  leaseSchema,
  listenerSchema,
  placedFlowSchema,
  publicKeysSchema,
} from './fields.ts';
import { terminalSchema } from './terminal-protocol.ts';

export const checkSchema = z.object({ name: z.string(), ok: z.boolean(), message: z.string() });

export const fileFactSchema = z.object({
  path: z.string(),
  kind: z.enum(['executable', 'mapped', 'open', 'directory', 'device']),
  /** Bytes; only where CRIU insists on the same size at the destination. */
  size: z.number().optional(),
  build_id: z.string().optional(),
});

const processFactSchema = z.object({
  pid: z.int(),
  /** The pid inside the innermost PID namespace: the one that the process itself sees and keeps. */
  inner_pid: z.int(),
  command: z.string(),
  uid: z.int(),
  resident_bytes: z.number(),
});

export const hostFactsSchema = z.object({
  hostname: z.string(),
  machine_id: z.string(),
  kernel: z.string(),
  arch: z.string(),
  cpu_flags: z.array(z.string()),
  /** Congestion control algorithms that the kernel has loaded. */
  congestion: z.array(z.string()),
  criu: z.string().nullable(),
  room_bytes: z.number(),
  /** Processes that ran or waited to, on average over the last minute, and processors to run them. */
  load: z.number(),
  cpus: z.int(),
});

/** Options that CRIU leaves out, by name, and the sockets that have them; agent/datapath/socket-layout.ts. */
const socketGroupSchema = z.object({
  options: z.object({
    congestion: z.string().max(15),
    values: z.record(z.string(), z.number().nonnegative()),
  }),
  sockets: z.array(z.object({ local: endpointSchema, remote: endpointSchema })).max(FLOWS_MAX),
});

/** New flows to the endpoints that the cell had where it began are to follow it. */
const forwardingSchema = z.object({
  lease_s: leaseSchema,
  /** ms since the epoch. */
  since: z.number(),
  endpoints: z.array(listenerSchema).max(FOLLOW_ROWS_MAX),
  /** Addresses of the source, where the cell is at home, and its public keys for the pairs with it. */
  homes: publicKeysSchema,
  /** Peers that follow the cell and have no flow with it now. */
  followers: z.array(z.string().max(45)).max(4096),
});

export const snapshotSchema = z.object({
  cell: id,
  name: z.string(),
  pid: z.int(),
  /** What was said of it for where it may be placed; goes with it. */
  placement: placementSchema.optional(),
  /** It uses the host's own network. */
  home: z.boolean(),
  host: hostFactsSchema,
  /** Addresses at which the source's agent can be asked. */
  agent_addresses: z.array(z.string()),
  processes: z.array(processFactSchema),
  flows: z.array(placedFlowSchema).max(FLOWS_MAX),
  /** Flows that are left behind, and end when the process runs elsewhere. */
  dropped: z.array(flowSchema).max(FLOWS_MAX),
  listeners: z.array(endpointSchema.extend({ protocol: z.enum(PROTOCOLS) })),
  /** Addresses that the cell's namespace must own. */
  addresses: z.array(z.string()),
  files: z.array(fileFactSchema),
  socket_options: z.array(socketGroupSchema).max(FLOWS_MAX),
  /** Keys of descriptors whose other end stays behind, as CRIU's --inherit-fd and --external name them. */
  outside: z.array(z.object({ resource: z.string(), external: z.boolean(), what: z.string() })),
  image_bytes: z.number(),
  checks: z.array(checkSchema),
  forwarding: forwardingSchema.optional(),
  terminal: terminalSchema.optional(),
});
