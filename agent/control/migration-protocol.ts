/** What orchestrator and agent say to one another about one migration, suspension or resumption; a part of METHODS in protocol.ts. */
import { z } from 'zod';
import { PROTOCOLS } from '../address.ts';
import { DATAGRAM_BYTES_MAX, HOPS_MAX } from '../wire/h2o-layout.ts';
import {
  bytes,
  endpointSchema,
  FLOWS_MAX,
  flowSchema,
  id,
  key,
  leaseSchema,
  none,
  placedFlowSchema,
  publicKeysSchema,
} from './fields.ts';
import { publicationSchema, publishSchema } from './publish-schema.ts';
import { checkSchema, hostFactsSchema, snapshotSchema } from './snapshot.ts';
import { destinationSchema } from './terminal-protocol.ts';

/** Flows of unconnected UDP sockets are learnt for this long at most. */
export const LEARN_MS_MAX = 300_000;

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

export const labelSchema = z.object({
  protocol: z.enum(PROTOCOLS),
  /** Virtual endpoint of the cell, as the peer knows it. */
  virtual: endpointSchema,
  /** The peer that this row is for: the destination may have another address towards each. */
  peer: z.string(),
  /** The wire endpoint where it will appear. */
  wire: endpointSchema,
});

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
const remotesHeldSchema = z.array(remoteHeldSchema).max(4096).optional();

/** Where a source's agent answers QUERY, and the key that seals it. */
export const decisionSchema = z.object({ addresses: z.array(z.string()).max(64), key });

const migration = { migration: id };

export const MIGRATION_METHODS = {
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
  'resume.verdict': {
    params: z.object({ ...migration, source: decisionSchema }),
    result: z.object({ verdict: z.enum(['commit', 'abort', 'silent']) }),
  },
  /** The cell is given up. `sessions`: each with the epoch of its BYE. Answers with peers that have not acknowledged yet. */
  'resume.discard': {
    params: z.object({ cell: id, sessions: z.array(sessionSchema) }),
    result: z.object({ silent: z.array(z.string()) }),
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
} as const satisfies Record<string, { params: z.ZodType; result: z.ZodType }>;
