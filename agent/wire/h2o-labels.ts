/**
 * The labels in a MOVE. Listed one by one while they fit; a cell with more outgoing connections to one peer than that
 * names its largest groups by a digest of what its HELLOs armed, so that a MOVE is one datagram whatever it moves.
 *
 * Group:
 *
 *    1b: protocol (6 TCP, 17 UDP)
 *    1b: 0 listed, 1 as armed
 *    2b: number of labels, at least 1
 *   16b: virtual address of the cell
 *   16b: wire address
 *        listed:   number × (2b: virtual port, 2b: label), virtual ports ascending
 *        as armed: 32b: SHA-256 of what would be listed
 */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { ADDRESS_BYTES, addressBytes, addressText, endpointKey, type Protocol } from '../address.ts';
import { OsmosisError } from '../error.ts';
import { type ByteReader, concatBytes, equalBytes, u8, u16 } from './bytes.ts';
import {
  DATAGRAM_BYTES_MAX,
  type Drop,
  KEY_BYTES,
  type Label,
  nameOf,
  PROTOCOL_NUMBERS,
  SEALED_HEADER_BYTES,
  sameFamily,
  TRANSACTION_BYTES,
} from './h2o-layout.ts';
import { SEAL_BYTES } from './seal.ts';

/** What a group takes before its labels, and a label in it. */
export const LABEL_GROUP_BYTES = 1 + 1 + 2 + 2 * ADDRESS_BYTES;
export const LABEL_BYTES = 4;
const DIGEST_BYTES = 32;
/** Next public key, transaction, number of groups, reserved. */
const MOVE_PREFIX_BYTES = KEY_BYTES + TRANSACTION_BYTES + 1 + 3;
const GROUPS_BYTES_MAX = DATAGRAM_BYTES_MAX - SEALED_HEADER_BYTES - SEAL_BYTES - MOVE_PREFIX_BYTES;
/** Different (protocol, virtual address, wire address) in one MOVE: as many as fit when each is a digest. */
export const MOVE_GROUPS_MAX = Math.floor(GROUPS_BYTES_MAX / (LABEL_GROUP_BYTES + DIGEST_BYTES));
/** Labels of one group that a MOVE can list; above, it names them by digest. */
export const LABELS_LISTED_MAX = Math.floor((GROUPS_BYTES_MAX - LABEL_GROUP_BYTES) / LABEL_BYTES);

/** Labels that a MOVE names by digest. */
export type ArmedGroup = {
  readonly protocol: Protocol;
  readonly virtualAddress: string;
  readonly wireAddress: string;
  readonly count: number;
  readonly digest: Uint8Array;
};
export type MoveLabels = { readonly listed: readonly Label[]; readonly armed: readonly ArmedGroup[] };

type Group = { readonly first: Label; readonly count: number; readonly pairs: Uint8Array };

function groupKey({ protocol, virtual, wire }: Label): string {
  return [protocol, virtual.address, wire.address].join(' ');
}

/** One label per virtual endpoint, the later one where there are two. */
export function uniqueLabels(labels: readonly Label[]): Label[] {
  return [...new Map(labels.map((label) => [endpointKey(label.protocol, label.virtual), label])).values()];
}

function group(labels: readonly Label[]): Group[] {
  return labelGroups(labels).flatMap((same) => {
    const [first] = same;
    const pairs = concatBytes(...same.flatMap(({ virtual, wire }) => [u16(virtual.port), u16(wire.port)]));
    return first === undefined ? [] : [{ first, count: same.length, pairs }];
  });
}

const digest = (pairs: Uint8Array) => new Uint8Array(createHash('sha256').update(pairs).digest());

/**
 * Throws PREFLIGHT if a MOVE can't carry `labels`. To be asked while the process still runs: once it is committed,
 * nothing may fail any more.
 */
export function assertMovable(labels: readonly Label[]): void {
  const groups = new Set(labels.map(groupKey)).size;
  if (groups <= MOVE_GROUPS_MAX) return;
  throw new OsmosisError(
    'PREFLIGHT',
    `The cell talks to one peer from ${groups} combinations of protocol and address; a move can announce ${MOVE_GROUPS_MAX}. ` +
      'Nothing has been touched; close connections of some of its addresses and try again.',
  );
}

/** Whether a MOVE says all of `labels` one by one: then it may have such as were never armed. */
export function areListed(labels: readonly Label[]): boolean {
  const groups = group(labels);
  const bytes = groups.reduce((sum, { pairs }) => sum + LABEL_GROUP_BYTES + pairs.length, 0);
  return groups.length <= MOVE_GROUPS_MAX && bytes <= GROUPS_BYTES_MAX;
}

/** Those of one group together, in the order of their virtual ports. */
export function labelGroups(labels: readonly Label[]): Label[][] {
  return [...Map.groupBy(uniqueLabels(labels), groupKey).values()].map((same) =>
    same.toSorted((a, b) => a.virtual.port - b.virtual.port),
  );
}

/** A field for each group. */
export function encodeListed(labels: readonly Label[]): Uint8Array[] {
  return group(labels).map((each) => encodeGroup(each, true));
}

/**
 * Group count, a zero, number of zeros at the end (2b), groups, those zeros. Smaller groups are listed first: they are the
 * cheapest to list. `padded`: as long as a MOVE can be, for an answer that may be.
 */
export function encodeLabels(labels: readonly Label[], padded = false): Uint8Array {
  assert(labels.length > 0, 'a MOVE moves at least one label');
  assertMovable(labels);
  const groups = group(labels).toSorted((a, b) => a.count - b.count);
  let room = GROUPS_BYTES_MAX - groups.length * (LABEL_GROUP_BYTES + DIGEST_BYTES);
  const fields = groups.map((each) => {
    const listed = each.pairs.length - DIGEST_BYTES <= room;
    if (listed) room -= each.pairs.length - DIGEST_BYTES;
    return encodeGroup(each, listed);
  });
  const bytes = fields.reduce((sum, field) => sum + field.length, 0);
  const padding = padded ? GROUPS_BYTES_MAX - bytes : 0;
  return concatBytes(u8(groups.length), u8(0), u16(padding), ...fields, new Uint8Array(padding));
}

function encodeGroup({ first, count, pairs }: Group, listed: boolean): Uint8Array {
  return concatBytes(
    u8(PROTOCOL_NUMBERS[first.protocol]),
    u8(listed ? 0 : 1),
    u16(count),
    addressBytes(first.virtual.address),
    addressBytes(first.wire.address),
    listed ? pairs : digest(pairs),
  );
}

export function decodeLabels(reader: ByteReader): MoveLabels | Drop {
  const count = reader.u8();
  const [reserved, padding] = [reader.u8(), reader.u16()];
  if (reader.overrun()) return { drop: 'too-short' };
  if (reserved !== 0) return { drop: 'reserved' };
  if (count === 0 || count > MOVE_GROUPS_MAX) return { drop: 'count' };
  const groups = decodeGroups(reader, count);
  if ('drop' in groups) return groups;
  if (reader.take(padding).some((byte) => byte !== 0)) return { drop: 'reserved' };
  if (reader.overrun()) return { drop: 'too-short' };
  return reader.remaining() === 0 ? groups : { drop: 'trailing' };
}

export function decodeGroups(reader: ByteReader, count: number): MoveLabels | Drop {
  const listed: Label[] = [];
  const armed: ArmedGroup[] = [];
  for (let index = 0; index < count; index++) {
    const decoded = decodeGroup(reader);
    if ('drop' in decoded) return decoded;
    if ('digest' in decoded) armed.push(decoded);
    else listed.push(...decoded);
  }
  return { listed, armed };
}

function decodeGroup(reader: ByteReader): Label[] | ArmedGroup | Drop {
  const protocol = nameOf(PROTOCOL_NUMBERS, reader.u8());
  const kind = reader.u8();
  const count = reader.u16();
  const virtualAddress = addressText(reader.take(ADDRESS_BYTES));
  const wireAddress = addressText(reader.take(ADDRESS_BYTES));
  const bytes = kind === 1 ? DIGEST_BYTES : count * LABEL_BYTES;
  if (reader.overrun() || reader.remaining() < bytes) return { drop: 'too-short' };
  if (protocol === undefined || kind > 1 || !sameFamily(virtualAddress, wireAddress))
    return { drop: 'value' };
  if (count === 0) return { drop: 'count' };
  if (kind === 1) return { protocol, virtualAddress, wireAddress, count, digest: reader.take(DIGEST_BYTES) };
  const labels: Label[] = [];
  let previous = 0;
  for (let index = 0; index < count; index++) {
    const [port, label] = [reader.u16(), reader.u16()];
    if (port <= previous || label === 0) return { drop: 'value' };
    previous = port;
    const wire = { address: wireAddress, port: label };
    labels.push({ protocol, virtual: { address: virtualAddress, port }, wire });
  }
  return labels;
}

/** Every label of a MOVE, where those named by digest are looked up in `armed`; a drop if they aren't there exactly. */
export function resolveLabels(
  { listed, armed: wanted }: MoveLabels,
  armed: readonly Label[],
): readonly Label[] | Drop {
  if (wanted.length === 0) return listed;
  const found = Map.groupBy(armed, groupKey);
  const resolved = [...listed];
  for (const { protocol, virtualAddress, wireAddress, count, digest: expected } of wanted) {
    const labels = found.get([protocol, virtualAddress, wireAddress].join(' ')) ?? [];
    const [same] = group(labels);
    if (same === undefined || same.count !== count) return { drop: 'unarmed' };
    if (!equalBytes(digest(same.pairs), expected)) return { drop: 'unarmed' };
    resolved.push(...labels);
  }
  return resolved;
}
