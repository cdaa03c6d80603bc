/** Endpoints of a host at which anybody reaches a cell: as they are asked for, and as they are. */
import { z } from 'zod';
import { PROTOCOLS } from '../address.ts';
import { endpointSchema } from './fields.ts';

/** Publications named at once. */
const PUBLISH_MAX = 256;

const publishSpecSchema = z.object({
  /** An address of the host; all of them without. */
  address: z.string().max(45).optional(),
  port: z.int().min(1).max(65_535),
  /** Port of the listener, where it is another one. */
  listener: z.int().min(1).max(65_535).optional(),
});
export const publishSchema = z.array(publishSpecSchema).max(PUBLISH_MAX);
export const publicationSchema = z.object({
  protocol: z.enum(PROTOCOLS),
  /** Endpoint of the host at which anybody reaches it. */
  wire: endpointSchema,
  /** Endpoint in the cell. */
  local: endpointSchema,
});
