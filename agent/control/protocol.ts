/** What orchestrator and agent say to one another: one schema a method, checked on arrival at either end. */
import { z } from 'zod';
import { PROTOCOLS } from '../address.ts';
import type { Snapshot as DatapathSnapshot } from '../datapath/snapshot.ts';
import { FOLLOW_ROWS_MAX, LEASE_SECONDS_MAX } from '../wire/h2o-follow.ts';
import { DATAGRAM_BYTES_MAX, HOPS_MAX } from '../wire/h2o-layout.ts';
import { DOCTOR_METHODS } from './doctor-protocol.ts';
import { cordonSchema, DRAIN_METHODS, placementSchema } from './drain-protocol.ts';
import { METRICS_METHODS } from './metrics-protocol.ts';
import { SYNC_METHODS } from './sync-protocol.ts';
import { destinationSchema, sizeSchema, TERMINAL_METHODS, terminalSchema } from './terminal-protocol.ts';
import { TRAFFIC_METHODS } from './traffic-protocol.ts';
import { TRUST_METHODS } from './trust-protocol.ts';

/** A migration names at most this many flows. */
export const FLOWS_MAX = 65_536;
/** A lease of new flows that follow a cell, in seconds: renewed at a third, so not shorter than retries take. */
export const LEASE_SECONDS_MIN = 3;
/** Unless the operator says otherwise: an hour. */
export const LEASE_SECONDS = 3_600;
/** Publications named at once. */
const PUBLISH_MAX = 256;
/** Flows of unconnected UDP sockets are learnt for this long at most. */
export const LEARN_MS_MAX = 300_000;

const id = z.string().regex(/^[0-9a-f]{32}$/);
const port = z.int().min(0).max(65_535);
export const endpointSchema = z.object({ address: z.string().max(45), port });
export const flowSchema = z.object({
  protocol: z.enum(PROTOCOLS),
  local: endpointSchema,
  remote: endpointSchema,
});
/** A flow, and where its remote end is on the wire now. */
export const placedFlowSchema = flowSchema.extend({
  at: endpointSchema,
  relayed: z.boolean().optional(),
  /** What the other end takes for our endpoint, where that is not `local`. */
  known: endpointSchema.optional(),
});
const bytes = (length: number) =>
  z.custom<Uint8Array>(
    (value) => value instanceof Uint8Array && value.length === length,
    `must have ${length} bytes`,
  );
const key = bytes(32);

export const checkSchema = z.object({ name: z.string(), ok: z.boolean(), message: z.string() });
/** One thing that was looked at before anything is touched; `message` says what was found and how to mend it. */
export type Check = z.infer<typeof checkSchema>;

export const fileFactSchema = z.object({
  path: z.string(),
  kind: z.enum(['executable', 'mapped', 'open', 'directory', 'device']),
  /** Bytes; only where CRIU insists on the same size at the destination. */
  size: z.number().optional(),
  build_id: z.string().optional(),
});
export type FileFact = z.infer<typeof fileFactSchema>;

export const processFactSchema = z.object({
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
export type HostFacts = z.infer<typeof hostFactsSchema>;

/** Options that CRIU leaves out, by name, and the sockets that have them; agent/datapath/socket-layout.ts. */
export const socketGroupSchema = z.object({
  options: z.object({
    congestion: z.string().max(15),
    values: z.record(z.string(), z.number().nonnegative()),
  }),
  sockets: z.array(z.object({ local: endpointSchema, remote: endpointSchema })).max(FLOWS_MAX),
});

const listenerSchema = endpointSchema.extend({ protocol: z.enum(PROTOCOLS) });
const leaseSchema = z.int().min(LEASE_SECONDS_MIN).max(LEASE_SECONDS_MAX);
const publicKeysSchema = z.array(z.object({ address: z.string().max(45), publicKey: key })).max(2);

/** New flows to the endpoints that the cell had where it began are to follow it. */
export const forwardingSchema = z.object({
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
/** All that a plan needs to know of a process (tree) and its host. */
export type Snapshot = z.infer<typeof snapshotSchema>;

export const peerSchema = z.object({
  address: z.string(),
  agent: z.boolean(),
  flows: z.int(),
  /** Of `flows`: those that it carries on for peers without an agent. */
  relayed: z.int(),
  /** It has all of them on its list, and is told nothing before the move itself. */
  registered: z.boolean().optional(),
  /** The process at the other end is suspended: it learns of the move once it is back. */
  suspended: z.boolean().optional(),
});
export type PeerFact = z.infer<typeof peerSchema>;

export const labelSchema = z.object({
  protocol: z.enum(PROTOCOLS),
  /** Virtual endpoint of the cell, as the peer knows it. */
  virtual: endpointSchema,
  /** The peer that this row is for: the destination may have another address towards each. */
  peer: z.string(),
  /** The wire endpoint where it will appear. */
  wire: endpointSchema,
});
export type Label = z.infer<typeof labelSchema>;

export const sessionSchema = z.object({
  peer: z.string(),
  /** Epoch of the MOVE that this session seals, and the HELLO transaction that armed its labels. */
  epoch: z.int(),
  transaction: bytes(8),
  cell: bytes(16),
  tag: bytes(8),
  toPeer: key,
  toCell: key,
  /** The peer was told nothing before the MOVE: nothing may be said to it until it has acknowledged that. */
  unasked: z.boolean().optional(),
  /** Of a suspension: what its HOLD says of datagrams; absent: they are held. */
  udp: z.enum(['hold', 'drop', 'pause']).optional(),
});
/** The session key of one peer, computed at migration time by the source, spent by the destination. */
export type PeerSession = z.infer<typeof sessionSchema>;

const datagramSchema = z.custom<Uint8Array>(
  (value) => value instanceof Uint8Array && value.length <= DATAGRAM_BYTES_MAX,
  'must be a datagram',
);
const wireLabelSchema = labelSchema.omit({ peer: true });
const endsSchema = z.array(wireLabelSchema).max(512);
export const remoteHeldSchema = z.object({
  cell: id,
  state: z.object({
    pair: z.object({ cell: bytes(16), epoch: z.int(), cellPublicKey: key, peerPublicKey: key }),
    secretKey: key,
    epoch: z.int(),
    armed: z.array(
      z.object({ transaction: bytes(8), parts: z.array(z.array(wireLabelSchema).max(FLOWS_MAX)).max(128) }),
    ),
    past: z.array(bytes(8)).max(16).optional(),
    last: z.object({ digest: bytes(32), ack: datagramSchema }).optional(),
  }),
  /** ms since the epoch. */
  held_at: z.number(),
  /** Hosts that its messages will pass by. */
  hops: z.int().min(1).max(HOPS_MAX),
  /** Addresses of the first of them. */
  origin: z.array(z.string().max(45)).max(256),
  /** Endpoints that its peer knows it by. */
  endpoints: z.array(z.string().max(64)).max(64),
  /** As the host of their other ends has them; `at`: where the cell was when it was suspended. */
  flows: z
    .array(flowSchema.extend({ at: endpointSchema, user_timeout: z.number().optional() }))
    .max(FLOWS_MAX),
});
/** What a host keeps of a suspended cell: it goes along with the end of its connections. */
export type RemoteHeld = z.infer<typeof remoteHeldSchema>;
const remotesHeldSchema = z.array(remoteHeldSchema).max(4096).optional();

/** Closes an image stream: what the sender counted. */
export const imageSummarySchema = z.object({ bytes: z.int(), files: z.int(), sha256: bytes(32) });

export const publishSpecSchema = z.object({
  /** An address of the host; all of them without. */
  address: z.string().max(45).optional(),
  port: z.int().min(1).max(65_535),
  /** Port of the listener, where it is another one. */
  listener: z.int().min(1).max(65_535).optional(),
});
const publishSchema = z.array(publishSpecSchema).max(PUBLISH_MAX);
export const publicationSchema = z.object({
  protocol: z.enum(PROTOCOLS),
  /** Endpoint of the host at which anybody reaches it. */
  wire: endpointSchema,
  /** Endpoint in the cell. */
  local: endpointSchema,
});

/** Targets of one `osmosis keep`. */
const KEEP_MAX = 256;
const keptCellSchema = z.object({
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
export type KeptCell = z.infer<typeof keptCellSchema>;

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
export type CellFact = z.infer<typeof cellSchema>;

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
export type RemoteCellFact = z.infer<typeof remoteCellSchema>;

/** A suspended cell whose peers on this host wait for it, since then (ms since 1970). */
export const heldSchema = z.object({ cell: id, flows: z.int(), since: z.number() });
export type HeldFact = z.infer<typeof heldSchema>;

export const relaySchema = z.object({ cell: z.union([id, z.literal('')]), peer: z.string(), flows: z.int() });
/** Connections of one peer without an agent with one cell. */
export type RelayFact = z.infer<typeof relaySchema>;

/** Where a source's agent answers QUERY, and the key that seals it. */
export const decisionSchema = z.object({ addresses: z.array(z.string()).max(64), key });

/** Of the agent since it has started. `dropped`: by reason (docs/h2o.md); `shared_secrets`: X25519 agreements. */
export const h2oCountersSchema = z.object({
  sent: z.int(),
  received: z.int(),
  dropped: z.record(z.string(), z.int()),
  shared_secrets: z.int(),
});

const migration = { migration: id };
const none = z.object({});

export const METHODS = {
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
  inspect: {
    params: z.object({
      target: z.string(),
      name: z.string().optional(),
      /** How long the flows of unconnected UDP sockets are learnt, if there are such sockets. */
      learn_ms: z.int().min(0).max(LEARN_MS_MAX).optional(),
      /** As the move is to be: the snapshot then says what would follow. */
      forward_lease_s: leaseSchema.optional(),
    }),
    result: snapshotSchema,
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
  survey: {
    params: z.object({
      cell: id,
      flows: z.array(placedFlowSchema).max(FLOWS_MAX),
      /** It is to be suspended: then every peer is asked. */
      stays: z.boolean().optional(),
    }),
    result: z.object({
      peers: z.array(peerSchema),
      /** Flows that a peer with an agent does not have. */
      unknown: z.array(flowSchema).optional(),
    }),
  },
  preflight: {
    params: z.object({
      snapshot: snapshotSchema,
      publish: publishSchema.optional(),
      /** Files are compared, and copied, by `sync.…`: nothing is said of those. */
      sync: z.boolean().optional(),
    }),
    result: z.object({
      host: hostFactsSchema,
      checks: z.array(checkSchema),
      /** The process would use this host's own network again. */
      home: z.boolean().optional(),
      published: z.array(publicationSchema).optional(),
    }),
  },
  'source.prepare': {
    params: z.object({
      ...migration,
      target: z.string(),
      cell: id,
      name: z.string().optional(),
      drop: z.array(z.string()).max(4096),
      /** Flows of unconnected UDP sockets that are to move: the kernel can't be asked for them. */
      datagrams: z.array(flowSchema).max(FLOWS_MAX).optional(),
      /** Peers without an agent whose flows this host carries on. */
      relay: z.array(z.string()).max(4096),
      /** New flows are to follow, for so many seconds at a time. */
      forward_lease_s: leaseSchema.optional(),
      key,
    }),
    /** What is to move as it is now, with new connections held off: the destination prepares for exactly this. */
    result: snapshotSchema,
  },
  'destination.prepare': {
    params: z.object({
      ...migration,
      snapshot: snapshotSchema,
      /** Where the source's agent answers QUERY, and the key that seals it; not for an image that comes out of a file. */
      source: decisionSchema.optional(),
      publish: publishSchema.optional(),
      /** Other ends that have moved while the cell was suspended, by the peer that they were at. */
      ends: z
        .array(z.object({ peer: z.string(), ends: endsSchema }))
        .max(4096)
        .optional(),
      /** Files that have come for it: from here on they are as the migration turns out. */
      sync: id.optional(),
    }),
    result: z.object({
      labels: z.array(labelSchema),
      /** The destination's public keys for the pairs that the snapshot offers. */
      homes: publicKeysSchema.optional(),
      published: z.array(publicationSchema).optional(),
    }),
  },
  'source.arm': {
    params: z.object({
      ...migration,
      labels: z.array(labelSchema).max(FLOWS_MAX),
      homes: publicKeysSchema.optional(),
    }),
    /** Flows of UDP that their peers do not have, or do not let the cell claim: nobody translates for them. */
    result: z.object({ refused: z.int().optional() }),
  },
  /** For a suspension, in place of `source.arm`. */
  'source.stay': {
    params: z.object({ ...migration, udp: z.enum(['hold', 'drop']).optional() }),
    result: none,
  },
  'image.read': { params: z.object(migration), result: none },
  'image.write': { params: z.object(migration), result: z.object({ bytes: z.int() }) },
  'source.freeze': {
    params: z.object(migration),
    result: z.object({
      sessions: z.array(sessionSchema),
      dump_ms: z.number(),
      /** Datagrams that the process had not taken from its sockets when it was frozen: they are lost. */
      datagrams_left: z.object({ sockets: z.int(), bytes: z.int() }).optional(),
      /** Suspended cells at the other ends. */
      held: remotesHeldSchema,
    }),
  },
  /** Out of a file: the peers are told its labels. `sessions`: as of `destination.restore`. */
  'destination.arm': {
    params: z.object({ ...migration, sessions: z.array(sessionSchema) }),
    result: none,
  },
  'destination.restore': {
    params: z.object({ ...migration, sessions: z.array(sessionSchema), held: remotesHeldSchema }),
    result: z.object({ restore_ms: z.number() }),
  },
  /** `to`: for whoever asks the source for the cell afterwards. */
  'source.commit': {
    params: z.object({ ...migration, to: destinationSchema.optional() }),
    result: none,
  },
  /** After the commit of a suspension: peers that have not acknowledged their HOLD yet. */
  'source.hold': { params: z.object(migration), result: z.object({ silent: z.array(z.string()) }) },
  /** Whether the peers of a stored image wait for it; `sessions`: each with the epoch of the HOLD that asks. */
  'resume.claim': {
    params: z.object({ cell: id, sessions: z.array(sessionSchema) }),
    result: z.object({
      peers: z.array(
        z.object({
          peer: z.string(),
          /** `other`: its agent answers, but not to this image. */
          answer: z.enum(['held', 'other', 'silent']),
          ends: endsSchema.optional(),
        }),
      ),
    }),
  },
  /** What the source's agent has decided; `silent` where it does not answer, or knows nothing of it. */
  /** The cell is given up. `sessions`: each with the epoch of its BYE. Answers with peers that have not acknowledged yet. */
  'resume.discard': {
    params: z.object({ cell: id, sessions: z.array(sessionSchema) }),
    result: z.object({ silent: z.array(z.string()) }),
  },
  'resume.verdict': {
    params: z.object({ ...migration, source: decisionSchema }),
    result: z.object({ verdict: z.enum(['commit', 'abort', 'silent']) }),
  },
  /** The point of no return of a resumption: its decision is this host's own. */
  'destination.commit': { params: z.object(migration), result: none },
  'destination.resume': { params: z.object(migration), result: z.object({ resume_ms: z.number() }) },
  'destination.confirm': {
    params: z.object(migration),
    result: z.object({ pid: z.int(), silent: z.array(z.string()), flip_ms: z.array(z.number()) }),
  },
  'source.confirm': { params: z.object(migration), result: none },
  'source.abort': { params: z.object(migration), result: z.object({ committed: z.boolean() }) },
  'destination.abort': { params: z.object(migration), result: none },
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

export const requestSchema = z.object({ id: z.int(), method: z.string(), params: z.unknown() });
export const cancelSchema = z.object({ id: z.int() });
export const failureSchema = z.object({
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
