/** What orchestrator and agent say to one another about cells of a host, and what it has to do with those of others; a part of METHODS in protocol.ts. */
import { z } from 'zod';
import { PROTOCOLS } from '../address.ts';
import type { Snapshot as DatapathSnapshot } from '../datapath/snapshot.ts';
import { cordonSchema, placementSchema } from './drain-protocol.ts';
import { endpointSchema, id, leaseSchema, listenerSchema, none } from './fields.ts';
import { labelSchema } from './migration-protocol.ts';
import { publicationSchema, publishSchema } from './publish-schema.ts';
import { hostFactsSchema } from './snapshot.ts';
import { sizeSchema, terminalSchema } from './terminal-protocol.ts';

/** Targets of one `osmosis keep`. */
const KEEP_MAX = 256;
export const keptCellSchema = z.object({
  cell: z.string(),
  pid: z.int(),
  /** False: its connections end when the host changes its address. */
  kept: z.boolean(),
  /** Hosts that it has connections with, as far as they have been asked. */
  peers: z.array(
    z.object({
      peer: z.string(),
      /** No agent answers there: its connections are not kept. */
      agent: z.boolean(),
      flows: z.int(),
      /** Of `flows`: by another address of the host than they began with. */
      away: z.int(),
      /** The peer knows the address by which they go now. */
      told: z.boolean(),
    }),
  ),
});

export const cellSchema = z.object({
  id,
  name: z.string(),
  pid: z.int(),
  command: z.string(),
  placement: placementSchema,
  /** It uses the host's own network. */
  home: z.boolean(),
  flows: z.array(
    z.object({
      protocol: z.enum(PROTOCOLS),
      virtual_local: endpointSchema,
      virtual_remote: endpointSchema,
      wire_local: endpointSchema,
      /** Address of the host that relays it: its peer has no agent. */
      by: z.string().optional(),
    }),
  ),
  labels: z.array(labelSchema),
  peers: z.array(z.object({ address: z.string(), epoch: z.int() })),
  forwarding: z
    .object({
      lease_s: z.int(),
      since: z.number(),
      endpoints: z.array(listenerSchema),
      /** Who has said to send new flows here, and until when unless it is renewed; ms since the epoch. */
      peers: z.array(z.object({ address: z.string(), until: z.number() })),
    })
    .optional(),
  published: z.array(publicationSchema).optional(),
  terminal: terminalSchema.optional(),
});

/** A cell of another host that this host's processes talk to. */
export const remoteCellSchema = z.object({
  /** Empty where this host knows only where it is: it had moved before its peer came here. */
  cell: z.union([id, z.literal('')]),
  epoch: z.int(),
  flows: z.int(),
  state: z.string(),
  wire: z.array(z.string()),
  /** Suspended since; ms since 1970. */
  held_since: z.number().optional(),
  /** Of `flows`: those that this host carries on for peers without an agent. */
  relays: z.array(z.object({ peer: z.string(), flows: z.int() })),
  /** It is suspended, and datagrams to it wait. `osmosis datapath` has how many have come so far. */
  datagrams_wait: z.boolean().optional(),
  /** Of those that waited last: `lost` are those that there was no room for (the oldest), and those that were too late. */
  datagrams: z.object({ came: z.int(), left: z.int(), late: z.int(), lost: z.int() }).optional(),
  /** New flows of this host to these endpoints go there, until then (ms since the epoch) unless it is renewed. */
  follow: z
    .object({
      until: z.number(),
      labels: z.array(
        z.object({ protocol: z.enum(PROTOCOLS), virtual: endpointSchema, wire: endpointSchema }),
      ),
    })
    .optional(),
});

/** A suspended cell whose peers on this host wait for it, since then (ms since 1970). */
export const heldSchema = z.object({ cell: id, flows: z.int(), since: z.number() });

export const relaySchema = z.object({ cell: z.union([id, z.literal('')]), peer: z.string(), flows: z.int() });

/** Of the agent since it has started. `dropped`: by reason (docs/h2o.md); `shared_secrets`: X25519 agreements. */
const h2oCountersSchema = z.object({
  sent: z.int(),
  received: z.int(),
  dropped: z.record(z.string(), z.int()),
  shared_secrets: z.int(),
});

export const CELL_METHODS = {
  status: {
    params: none,
    result: z.object({
      version: z.string(),
      host: hostFactsSchema,
      cells: z.array(cellSchema),
      remote_cells: z.array(remoteCellSchema),
      /** No cell is placed here. */
      cordon: cordonSchema.optional(),
      h2o: h2oCountersSchema.optional(),
    }),
  },
  datapath: {
    params: none,
    result: z.custom<DatapathSnapshot>((value) => typeof value === 'object' && value !== null),
  },
  run: {
    params: z.object({
      name: z.string().optional(),
      placement: placementSchema.optional(),
      argv: z.array(z.string()).min(1).max(4096),
      cwd: z.string(),
      env: z.array(z.tuple([z.string(), z.string()])).max(4096),
      /** Nothing is denied to it, although it may then not be movable. */
      as_is: z.boolean(),
      /** In a terminal of its own, of this size to begin with. */
      terminal: terminalSchema.extend({ size: sizeSchema }).optional(),
    }),
    result: z.object({
      cell: z.string(),
      id: id.optional(),
      pid: z.int(),
      io_uring: z.enum(['denied', 'allowed']),
      mptcp: z.enum(['off', 'as it is']),
    }),
  },
  /**
   * Ends relayed connections, of one cell or of all: `sockets` at the host of the cell, which tells the peers at once;
   * `entries` at the host that relays, which tells either end when it next says something.
   */
  'relay.end': {
    params: z.object({ cell: id.optional(), what: z.enum(['sockets', 'entries']), dry_run: z.boolean() }),
    result: z.object({ ended: z.array(relaySchema) }),
  },
  /** Ends the connections of this host's processes with a suspended cell: it will find nobody here when it comes back. */
  'held.end': {
    params: z.object({ cell: id, dry_run: z.boolean() }),
    result: z.object({ ended: z.array(heldSchema) }),
  },
  forward: {
    params: z.object({
      target: z.string(),
      /** Undefined: as it is, or an hour. */
      lease_s: leaseSchema.optional(),
      end: z.boolean(),
      dry_run: z.boolean(),
    }),
    result: z.object({
      cell: z.string(),
      /** 0: no new flows follow. */
      lease_s: z.int(),
      endpoints: z.array(listenerSchema),
      peers: z.array(z.string()),
      /** Peers that have not acknowledged yet. */
      silent: z.array(z.string()),
    }),
  },
  /** Without targets: what is kept when this host changes its address. */
  keep: {
    params: z.object({
      targets: z.array(z.string()).max(KEEP_MAX),
      name: z.string().optional(),
      /** Added to what it has; an empty value takes one away. */
      placement: placementSchema.optional(),
      end: z.boolean(),
      dry_run: z.boolean(),
      /** Without targets: addresses that the host is about to lose. With `end`: they are to stay. */
      leave: z.array(z.string()).max(KEEP_MAX).optional(),
    }),
    /** `untold`, of `leave`: peers that have not acknowledged yet. */
    result: z.object({ cells: z.array(keptCellSchema), untold: z.array(z.string()).optional() }),
  },
  publish: {
    params: z.object({
      target: z.string(),
      specs: publishSchema.min(1),
      end: z.boolean(),
      dry_run: z.boolean(),
    }),
    /** `changed`: what was added or ended; `published`: all that is published after that. */
    result: z.object({
      cell: z.string(),
      changed: z.array(publicationSchema),
      published: z.array(publicationSchema),
    }),
  },
} as const satisfies Record<string, { params: z.ZodType; result: z.ZodType }>;
