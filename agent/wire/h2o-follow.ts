/**
 * What a FOLLOW says: for how long new flows to which old endpoints of the cell go to where it is now. It replaces what
 * the FOLLOW before it has said; a lease of 0 ends it.
 *
 *    4b: lease, seconds; 0: from now on no new flows
 *    1b: number of rows; 0 exactly if the lease is 0
 *    1b: reserved, zero
 *    2b: number of labels that have ended
 *        rows: 1b protocol (6 TCP, 17 UDP), 1b reserved, zero; 2b virtual port, 2b label, neither 0;
 *              16b virtual address, 16b wire address
 *        ended: 1b protocol; 1b whose; 2b port, not 0
 *               whose 0: what the peer's host relays for others under that port of its own is over
 *               whose 1: all flows with the cell's endpoint that is that label now are over
 */
import assert from 'node:assert/strict';
import { ADDRESS_BYTES, addressBytes, addressText, type Protocol } from '../address.ts';
import { type ByteReader, concatBytes, u8, u16, u32 } from './bytes.ts';
import {
  DATAGRAM_BYTES_MAX,
  type Drop,
  type Label,
  nameOf,
  PROTOCOL_NUMBERS,
  SEALED_HEADER_BYTES,
  sameFamily,
} from './h2o-layout.ts';
import { SEAL_BYTES } from './seal.ts';

const PREFIX_BYTES = 4 + 1 + 1 + 2;
const ENDED_BYTES = 1 + 1 + 2;
const OF_PEER = 0;
const OF_CELL = 1;
const BODY_BYTES_MAX = DATAGRAM_BYTES_MAX - SEALED_HEADER_BYTES - SEAL_BYTES - PREFIX_BYTES;
const ROW_BYTES = 1 + 1 + 2 + 2 + 2 * ADDRESS_BYTES;
/** Endpoints in one FOLLOW, which is one datagram. */
export const FOLLOW_ROWS_MAX = Math.floor(BODY_BYTES_MAX / ROW_BYTES);
/** A lease that nobody renews ends by itself: a day, at most. */
export const LEASE_SECONDS_MAX = 24 * 3_600;

/** A port of the peer's host, as the cell sees it; or, `ofCell`, a label of the cell's. */
export type Ended = { readonly protocol: Protocol; readonly port: number; readonly ofCell?: true };
export type FollowBody = {
  readonly leaseSeconds: number;
  readonly labels: readonly Label[];
  readonly ended: readonly Ended[];
};

/** How many have room beside so many rows. */
export function endedMax(rows: number): number {
  return Math.floor((BODY_BYTES_MAX - rows * ROW_BYTES) / ENDED_BYTES);
}

export function encodeFollow({ leaseSeconds, labels, ended }: FollowBody): Uint8Array {
  assert(labels.length <= FOLLOW_ROWS_MAX, 'more rows than a FOLLOW has room for');
  assert(leaseSeconds <= LEASE_SECONDS_MAX && leaseSeconds > 0 === labels.length > 0);
  const rows = labels.map(({ protocol, virtual, wire }) =>
    concatBytes(
      u8(PROTOCOL_NUMBERS[protocol]),
      u8(0),
      u16(virtual.port),
      u16(wire.port),
      addressBytes(virtual.address),
      addressBytes(wire.address),
    ),
  );
  assert(ended.length <= endedMax(labels.length), 'more ended labels than a FOLLOW has room for');
  const over = ended.map(({ protocol, port, ofCell }) =>
    concatBytes(u8(PROTOCOL_NUMBERS[protocol]), u8(ofCell ? OF_CELL : OF_PEER), u16(port)),
  );
  return concatBytes(u32(leaseSeconds), u8(labels.length), u8(0), u16(ended.length), ...rows, ...over);
}

export function decodeFollow(reader: ByteReader): FollowBody | Drop {
  const [leaseSeconds, count, reserved, over] = [reader.u32(), reader.u8(), reader.u8(), reader.u16()];
  const bytes = count * ROW_BYTES + over * ENDED_BYTES;
  if (reader.overrun() || reader.remaining() < bytes) return { drop: 'too-short' };
  if (reserved !== 0) return { drop: 'reserved' };
  if (leaseSeconds > LEASE_SECONDS_MAX) return { drop: 'value' };
  if (count > FOLLOW_ROWS_MAX || count > 0 !== leaseSeconds > 0) return { drop: 'count' };
  if (reader.remaining() > bytes) return { drop: 'trailing' };
  const labels: Label[] = [];
  for (let index = 0; index < count; index++) {
    const row = decodeRow(reader);
    if ('drop' in row) return row;
    labels.push(row);
  }
  const ended: Ended[] = [];
  for (let index = 0; index < over; index++) {
    const one = decodeEnded(reader);
    if ('drop' in one) return one;
    ended.push(one);
  }
  return { leaseSeconds, labels, ended };
}

function decodeEnded(reader: ByteReader): Ended | Drop {
  const protocol = nameOf(PROTOCOL_NUMBERS, reader.u8());
  const [whose, port] = [reader.u8(), reader.u16()];
  if (protocol === undefined || port === 0 || whose > OF_CELL) return { drop: 'value' };
  return whose === OF_CELL ? { protocol, port, ofCell: true } : { protocol, port };
}

function decodeRow(reader: ByteReader): Label | Drop {
  const protocol = nameOf(PROTOCOL_NUMBERS, reader.u8());
  const reserved = reader.u8();
  const [port, label] = [reader.u16(), reader.u16()];
  const [virtual, wire] = [addressText(reader.take(ADDRESS_BYTES)), addressText(reader.take(ADDRESS_BYTES))];
  if (reserved !== 0) return { drop: 'reserved' };
  if (protocol === undefined || port === 0 || label === 0 || !sameFamily(virtual, wire))
    return { drop: 'value' };
  return { protocol, virtual: { address: virtual, port }, wire: { address: wire, port: label } };
}
