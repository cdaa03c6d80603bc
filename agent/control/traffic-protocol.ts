/** What the connections of cells carry, as the TUI asks for it; a part of METHODS in protocol.ts. */
import { z } from 'zod';

const cellTrafficSchema = z.object({
  cell: z.string(),
  processes: z.int(),
  peers: z.array(
    z.object({
      /** As the cell knows it. */
      address: z.string(),
      flows: z.int(),
      /** Of TCP, since each connection's last restore: the kernel counts from zero there. */
      bytes_in: z.number(),
      bytes_out: z.number(),
    }),
  ),
});
export type CellTraffic = z.infer<typeof cellTrafficSchema>;

export const TRAFFIC_METHODS = {
  traffic: { params: z.object({}), result: z.object({ cells: z.array(cellTrafficSchema) }) },
} as const satisfies Record<string, { params: z.ZodType; result: z.ZodType }>;
