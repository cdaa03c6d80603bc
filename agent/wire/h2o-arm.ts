/**
 * What an ARM says: labels that the MOVE after it names by digest, where no HELLO could arm them. As many parts as it takes,
 * each sealed, believed and acknowledged by itself; they share epoch and transaction, and the header's detail says which
 * part it is.
 *
 *    8b: transaction, random, the same in all parts; the MOVE names it
 *    1b: number of parts
 *    1b: number of label groups, at least 1
 *    2b: reserved, zero
 *        label groups (h2o-labels.ts), all of them listed
 */
import assert from 'node:assert/strict';
import { OsmosisError } from '../error.ts';
import { type ByteReader, concatBytes, u8 } from './bytes.ts';
import {
  decodeGroups,
  encodeListed,
  LABEL_BYTES,
  LABEL_GROUP_BYTES,
  labelGroups,
  MOVE_GROUPS_MAX,
} from './h2o-labels.ts';
import {
  ARM_PARTS_MAX,
  DATAGRAM_BYTES_MAX,
  type Drop,
  type Label,
  SEALED_HEADER_BYTES,
  TRANSACTION_BYTES,
} from './h2o-layout.ts';
import { SEAL_BYTES } from './seal.ts';

const PREFIX_BYTES = TRANSACTION_BYTES + 1 + 1 + 2;
const GROUPS_BYTES_MAX = DATAGRAM_BYTES_MAX - SEALED_HEADER_BYTES - SEAL_BYTES - PREFIX_BYTES;
/** Labels of one group in one part. */
export const ARM_LABELS_MAX = Math.floor((GROUPS_BYTES_MAX - LABEL_GROUP_BYTES) / LABEL_BYTES);

export type ArmBody = {
  readonly transaction: Uint8Array;
  readonly parts: number;
  readonly labels: readonly Label[];
};

/** Whether one ARM can say all of `labels`, and one MOVE name them. */
export function canArm(labels: readonly Label[]): boolean {
  return pack(labels).length <= ARM_PARTS_MAX && labelGroups(labels).length <= MOVE_GROUPS_MAX;
}

/**
 * The labels of each part.
 * @throws OsmosisError PREFLIGHT where they are more than ARM_PARTS_MAX parts hold
 */
export function packLabels(labels: readonly Label[]): Label[][] {
  const parts = pack(labels);
  if (parts.length <= ARM_PARTS_MAX) return parts;
  throw new OsmosisError(
    'PREFLIGHT',
    `The cell has ${labels.length} endpoints of its own with one peer: announcing them takes ${parts.length} datagrams, the ` +
      `limit is ${ARM_PARTS_MAX}. Close connections and try again.`,
  );
}

function pack(labels: readonly Label[]): Label[][] {
  const parts: Label[][] = [];
  let room = 0;
  for (const group of labelGroups(labels)) {
    for (let at = 0; at < group.length; ) {
      const fits = Math.floor((room - LABEL_GROUP_BYTES) / LABEL_BYTES);
      if (fits < 1) {
        parts.push([]);
        room = GROUPS_BYTES_MAX;
        continue;
      }
      const taken = group.slice(at, at + fits);
      parts.at(-1)?.push(...taken);
      room -= LABEL_GROUP_BYTES + taken.length * LABEL_BYTES;
      at += taken.length;
    }
  }
  return parts;
}

export function encodeArm({ transaction, parts, labels }: ArmBody): Uint8Array {
  assert.equal(transaction.length, TRANSACTION_BYTES);
  assert(parts > 0 && parts <= ARM_PARTS_MAX);
  const groups = encodeListed(labels);
  return concatBytes(transaction, u8(parts), u8(groups.length), new Uint8Array(2), ...groups);
}

/** `part`: as its header says. */
export function decodeArm(part: number, reader: ByteReader): ArmBody | Drop {
  const transaction = reader.take(TRANSACTION_BYTES);
  const [parts, count] = [reader.u8(), reader.u8()];
  const reserved = reader.take(2);
  if (reader.overrun()) return { drop: 'too-short' };
  if (reserved.some((byte) => byte !== 0)) return { drop: 'reserved' };
  if (parts > ARM_PARTS_MAX || part >= parts || count === 0) return { drop: 'count' };
  const groups = decodeGroups(reader, count);
  if ('drop' in groups) return groups;
  if (groups.armed.length > 0) return { drop: 'value' };
  return reader.remaining() === 0 ? { transaction, parts, labels: groups.listed } : { drop: 'trailing' };
}
