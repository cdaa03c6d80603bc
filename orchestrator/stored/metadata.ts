/** What a stored image says of itself: to anybody who has the file, and to whoever has its key. */
import { decode, encode } from 'cborg';
import { z } from 'zod';
import { decisionSchema, sessionSchema } from '../../agent/control/migration-protocol.ts';
import { imageSummarySchema } from '../../agent/control/protocol.ts';
import { publicationSchema } from '../../agent/control/publish-schema.ts';
import { snapshotSchema } from '../../agent/control/snapshot.ts';
import { damaged } from './format.ts';

/** Nothing that names a connection, a command line or a key. */
const clearSchema = z.object({
  cell: z.string().max(63),
  /** ms since the epoch. */
  suspended_at: z.number(),
  version: z.string().max(64),
  host: z.object({
    hostname: z.string().max(255),
    kernel: z.string().max(255),
    arch: z.string().max(63),
    criu: z.string().max(63).nullable(),
  }),
  processes: z.int(),
  flows: z.int(),
  peers: z.int(),
});
export type ClearMetadata = z.infer<typeof clearSchema>;

const sealedSchema = z.object({
  migration: z.string(),
  /** Who knows whether the process was given up for this file. */
  source: decisionSchema,
  snapshot: snapshotSchema,
  /** Each with the epoch of the HOLD that the source has sent. */
  sessions: z.array(sessionSchema),
  /** Where it was published at its last host. */
  published: z.array(publicationSchema),
  image: imageSummarySchema,
});
export type SealedMetadata = z.infer<typeof sealedSchema>;

export function encodeMetadata(metadata: ClearMetadata | SealedMetadata): Uint8Array {
  return encode(metadata, { ignoreUndefinedProperties: true });
}

/** @throws FormatError */
export function decodeClear(bytes: Uint8Array): ClearMetadata {
  return decoded(bytes, clearSchema);
}

/** @throws FormatError */
export function decodeSealed(bytes: Uint8Array): SealedMetadata {
  return decoded(bytes, sealedSchema);
}

function decoded<T>(bytes: Uint8Array, schema: z.ZodType<T>): T {
  let item: unknown;
  try {
    item = decode(bytes);
  } catch {
    throw damaged('its metadata');
  }
  const parsed = schema.safeParse(item);
  if (!parsed.success) throw damaged(`its metadata (${parsed.error.issues[0]?.path.join('.')})`);
  return parsed.data;
}
