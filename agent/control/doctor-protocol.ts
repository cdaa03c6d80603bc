/** What orchestrator and agent say to one another about what a host can reach; a part of METHODS in protocol.ts. */
import { z } from 'zod';

/** Addresses asked at once: those of a fleet of some hundred hosts. */
const REACH_MAX = 1024;

export const DOCTOR_METHODS = {
  /** Asks the agents at these addresses, by H2O, whether they are there; nothing is kept of it anywhere. */
  reach: {
    params: z.object({ addresses: z.array(z.union([z.ipv4(), z.ipv6()])).max(REACH_MAX) }),
    result: z.object({
      rows: z.array(
        z.object({
          address: z.string(),
          /**
           * `agent`: it has answered. `closed`: the host has said that nobody listens there. `silent`: neither, so packets are
           * lost on the way or thrown away. `own`: an address of the asking host itself. `no-route`: it has none to there.
           */
          answer: z.enum(['agent', 'closed', 'silent', 'own', 'no-route']),
        }),
      ),
    }),
  },
} as const satisfies Record<string, { params: z.ZodType; result: z.ZodType }>;
