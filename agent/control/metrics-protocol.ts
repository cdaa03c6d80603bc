/** What an agent counts, for whoever asks; a part of METHODS in protocol.ts. */
import { z } from 'zod';

export const METRICS_METHODS = {
  /** In Prometheus' text format. */
  metrics: { params: z.object({}), result: z.object({ content_type: z.string(), text: z.string() }) },
} as const satisfies Record<string, { params: z.ZodType; result: z.ZodType }>;
