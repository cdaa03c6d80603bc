/** Fields that many requests and answers have. */
import { z } from 'zod';
import { PROTOCOLS } from '../address.ts';
import { LEASE_SECONDS_MAX } from '../wire/h2o-follow.ts';

/** A migration names at most this many flows. */
export const FLOWS_MAX = 65_536;
/** A lease of new flows that follow a cell, in seconds: renewed at a third, so not shorter than retries take. */
export const LEASE_SECONDS_MIN = 3;

export const id = z.string().regex(/^[0-9a-f]{32}$/);
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
export const bytes = (length: number) =>
  z.custom<Uint8Array>(
    (value) => value instanceof Uint8Array && value.length === length,
    `must have ${length} bytes`,
  );
export const key = bytes(32);

export const listenerSchema = endpointSchema.extend({ protocol: z.enum(PROTOCOLS) });
export const leaseSchema = z.int().min(LEASE_SECONDS_MIN).max(LEASE_SECONDS_MAX);
export const publicKeysSchema = z.array(z.object({ address: z.string().max(45), publicKey: key })).max(2);
export const none = z.object({});
