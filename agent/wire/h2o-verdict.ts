/**
 * The question that a destination asks when it was cut off: what did the source, which holds the decision, decide?
 * Sealed under the migration's own 32-byte key, which both agents got over SSH. No plaintext: the verdict is in the
 * authenticated header. Nonce, 12 bytes:
 *
 *   1b: type
 *   1b: detail (VERDICT: the verdict)
 *   2b: zero
 *   8b: the QUERY's nonce
 */
import { randomBytes } from 'node:crypto';
import { concatBytes, equalBytes, u8 } from './bytes.ts';
import type { SealedVerdict } from './h2o.ts';
import {
  type Drop,
  encodeHeader,
  MESSAGE_TYPES,
  nameOf,
  QUERY_NONCE_BYTES,
  VERDICTS,
  type Verdict,
} from './h2o-layout.ts';
import { openBytes, SEAL_BYTES, sealBytes } from './seal.ts';

/** The migration's id (16 bytes) and key (32 bytes). */
export type MigrationKey = { readonly migration: Uint8Array; readonly key: Uint8Array };
type Legible = Pick<SealedVerdict, 'type' | 'detail' | 'nonce'>;

export function newQueryNonce(): Uint8Array {
  return new Uint8Array(randomBytes(QUERY_NONCE_BYTES));
}

/** A new `nonce` for every question: an old verdict answers none but its own. */
export function createQuery(secret: MigrationKey, nonce: Uint8Array): Uint8Array {
  return seal(secret, { type: 'query', detail: 0, nonce });
}

export function createVerdict(
  secret: MigrationKey,
  query: { readonly nonce: Uint8Array },
  verdict: Verdict,
): Uint8Array {
  return seal(secret, { type: 'verdict', detail: VERDICTS[verdict], nonce: query.nonce });
}

export function consumeQuery(
  secret: MigrationKey,
  sealed: SealedVerdict,
): { readonly nonce: Uint8Array } | Drop {
  if (sealed.type !== 'query') return { drop: 'type' };
  return refusal(secret, sealed) ?? { nonce: sealed.nonce };
}

/** The verdict that answers the QUERY with `nonce`. */
export function consumeVerdict(
  secret: MigrationKey,
  nonce: Uint8Array,
  sealed: SealedVerdict,
): { readonly verdict: Verdict } | Drop {
  if (sealed.type !== 'verdict') return { drop: 'type' };
  const refused = refusal(secret, sealed);
  if (refused !== undefined) return refused;
  if (!equalBytes(nonce, sealed.nonce)) return { drop: 'stale' };
  const verdict = nameOf(VERDICTS, sealed.detail);
  return verdict === undefined ? { drop: 'value' } : { verdict };
}

function seal({ migration, key }: MigrationKey, legible: Legible): Uint8Array {
  const header = concatBytes(encodeHeader({ ...legible, id: migration }), legible.nonce);
  return concatBytes(header, sealBytes(key, nonceOf(legible), header, new Uint8Array()));
}

function refusal({ migration, key }: MigrationKey, sealed: SealedVerdict): Drop | undefined {
  if (!equalBytes(migration, sealed.migration)) return { drop: 'session' };
  const header = sealed.datagram.subarray(0, -SEAL_BYTES);
  const opened = openBytes(key, nonceOf(sealed), header, sealed.datagram.subarray(-SEAL_BYTES));
  return opened === undefined ? { drop: 'forged' } : undefined;
}

function nonceOf({ type, detail, nonce }: Legible): Uint8Array {
  return concatBytes(u8(MESSAGE_TYPES[type]), u8(detail), new Uint8Array(2), nonce);
}
