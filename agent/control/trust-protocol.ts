/** What orchestrator and agent say to one another about identities; a part of METHODS in protocol.ts. */
import { z } from 'zod';
import { KNOWN_MAX, POLICIES } from '../trust/known-identities.ts';

const address = z.string().max(45);
/** SHA256:… */
const fingerprint = z.string().max(64);
/** SHA256:… or ssh-ed25519 …, as an operator names it. */
const identity = z.string().max(256);
const pin = z.object({ address, fingerprint });
const policy = z.enum(POLICIES);
const announced = z.object({
  cell: z.string(),
  /** That it was announced from. */
  address,
  flows: z.int(),
});
export type AnnouncedFact = z.infer<typeof announced>;
const known = z.object({ address, fingerprint, how: policy, since: z.number() });

export const TRUST_METHODS = {
  /** Times in ms since the epoch. */
  'trust.list': {
    params: z.object({}),
    result: z.object({
      /** Of the agent itself. */
      fingerprint,
      /** ssh-ed25519 … */
      public_key: z.string(),
      /** Of its host. */
      addresses: z.array(address),
      policy,
      known: z.array(known),
      revoked: z.array(z.object({ fingerprint, since: z.number() })),
      /** Since the agent started. */
      refused: z.array(
        z.object({
          address,
          fingerprint,
          why: z.enum(['mismatch', 'unknown', 'revoked']),
          count: z.int(),
          last: z.number(),
        }),
      ),
    }),
  },
  'trust.pin': {
    params: z.object({
      pins: z.array(z.object({ address, identity })).min(1).max(KNOWN_MAX),
      /** Also where another identity is pinned, and for an identity that was revoked. */
      replace: z.boolean(),
      dry_run: z.boolean(),
    }),
    /** Where one is `conflict` or `revoked`, nothing was changed. */
    result: z.object({
      rows: z.array(
        pin.extend({
          action: z.enum(['pinned', 'unchanged', 'replaced', 'conflict', 'revoked']),
          /** Fingerprint that was known there. */
          before: fingerprint.optional(),
        }),
      ),
    }),
  },
  'trust.revoke': {
    /** Either the identity, or addresses at which it is known. */
    params: z.object({
      identity: identity.optional(),
      addresses: z.array(address).max(64).optional(),
      dry_run: z.boolean(),
    }),
    /** `known`: where they were known. `dropped`: cells whose moves they had announced here. */
    result: z.object({
      revoked: z.array(fingerprint),
      known: z.array(known),
      dropped: z.array(announced),
    }),
  },
  'trust.policy': {
    params: z.object({ policy: policy.optional(), dry_run: z.boolean() }),
    result: z.object({ policy, before: policy }),
  },
} as const satisfies Record<string, { params: z.ZodType; result: z.ZodType }>;
