/** The fleet file: which hosts there are, what is said of them, and what commands take where their options are silent. */
import { z } from 'zod';
import { placementSchema } from '../../agent/control/drain-protocol.ts';

/** Hosts of one fleet. */
const FLEET_HOSTS_MAX = 1024;
export const PARALLEL_MAX = 64;
/** As `--deadline` and others have it. */
const DURATION = /^\d{1,6}(s|m|h)$/;
const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/;
const LEGACY = ['relay', 'drop', 'refuse'] as const;

const hostSchema = z
  .strictObject({
    ssh: z
      .string()
      .max(512)
      .regex(/^(ssh:\/\/.+|local)$/, 'ssh://[user@]host[:port], or local')
      .optional()
      .describe('How it is reached; without it ssh://NAME'),
    labels: placementSchema.optional().describe('What can be asked for with --select-host'),
  })
  .nullable();

export const fleetSchema = z.strictObject({
  $schema: z.string().optional().describe('For editors'),
  hosts: z
    .record(z.string().regex(NAME), hostSchema)
    .refine((hosts) => Object.keys(hosts).length <= FLEET_HOSTS_MAX, `at most ${FLEET_HOSTS_MAX} hosts`),
  defaults: z
    .strictObject({
      drain: z
        .strictObject({
          parallel: z.int().min(1).max(PARALLEL_MAX).optional().describe('Moves at the same time'),
          deadline: z.string().regex(DURATION).optional().describe('No move begins after that, such as 10m'),
          legacy: z.enum(LEGACY).optional().describe('What becomes of connections whose peers run no agent'),
        })
        .optional(),
    })
    .optional(),
});
export type FleetFile = z.infer<typeof fleetSchema>;

/** For editors that check YAML while it is written; `osmosis hosts --schema` prints it. */
export function fleetJsonSchema(): object {
  return z.toJSONSchema(fleetSchema, { unrepresentable: 'any', io: 'input' });
}
