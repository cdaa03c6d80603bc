/**
 * The claims of a HELLO: which flows the cell side says it holds with this peer, and under which label each of its
 * endpoints will appear. Claims that share their addresses share a group, so that 10,000 flows fit 21 datagrams (one
 * listening endpoint) or 84 (10,000 outgoing connections).
 *
 * Group:
 *
 *    1b: protocol (6 TCP, 17 UDP)
 *    1b: 1 if armed, else 0
 *    2b: number of runs, at least 1
 *   16b: virtual address of the cell
 *   16b: virtual address of the peer
 *  [16b: wire address after the move, if armed]
 *        runs:
 *
 * Run:
 *
 *    2b: virtual port of the cell
 *  [ 2b: label after the move, if armed]
 *    2b: number of ports, at least 1
 *    2b × number: virtual ports of the peer
 */
import {
  ADDRESS_BYTES,
  addressBytes,
  addressText,
  type Endpoint,
  type Flow,
  type Protocol,
} from '../address.ts';
import { type ByteReader, concatBytes, u8, u16 } from './bytes.ts';
import { type Drop, type Label, nameOf, PROTOCOL_NUMBERS, sameFamily } from './h2o-layout.ts';

/** Flows of one virtual local endpoint of the cell with one virtual address of the peer. */
export type Claim = {
  readonly protocol: Protocol;
  /** The cell's virtual endpoint. */
  readonly local: Endpoint;
  /** The peer's virtual address; a flow for each of `peerPorts`. */
  readonly peerAddress: string;
  readonly peerPorts: readonly number[];
  /** Where `local` will appear after the move; absent while no destination has drawn a label. */
  readonly arm?: Endpoint;
};

const PORT_BYTES = 2;

/** The flows of claims as the cell sees them, in wire order: the order of a WELCOME's bitmap. */
export function claimedFlows(claims: readonly Claim[]): Flow[] {
  return claims.flatMap(({ protocol, local, peerAddress, peerPorts }) =>
    peerPorts.map((port) => ({ protocol, local, remote: { address: peerAddress, port } })),
  );
}

/** The labels that claims arm. */
export function armedLabels(claims: readonly Claim[]): Label[] {
  return claims.flatMap(({ protocol, local, arm }) =>
    arm === undefined ? [] : [{ protocol, virtual: local, wire: arm }],
  );
}

export function encodeClaims(claims: readonly Claim[]): Uint8Array {
  const groups = groupRuns(claims);
  return concatBytes(...groups.flatMap((group) => [encodeGroupHead(group), ...group.map(encodeRun)]));
}

/** Consecutive claims with the same addresses, together. */
function groupRuns(claims: readonly Claim[]): Claim[][] {
  const groups: Claim[][] = [];
  let key = '';
  for (const claim of claims) {
    const next = groupKey(claim);
    if (next === key) groups.at(-1)?.push(claim);
    else groups.push([claim]);
    key = next;
  }
  return groups;
}

function groupKey({ protocol, local, peerAddress, arm }: Claim): string {
  return [protocol, local.address, peerAddress, arm?.address ?? ''].join(' ');
}

function encodeGroupHead(group: readonly Claim[]): Uint8Array {
  const [first] = group;
  if (first === undefined) return new Uint8Array();
  return concatBytes(
    u8(PROTOCOL_NUMBERS[first.protocol]),
    u8(first.arm === undefined ? 0 : 1),
    u16(group.length),
    addressBytes(first.local.address),
    addressBytes(first.peerAddress),
    first.arm === undefined ? new Uint8Array() : addressBytes(first.arm.address),
  );
}

function encodeRun({ local, arm, peerPorts }: Claim): Uint8Array {
  const label = arm === undefined ? [] : [u16(arm.port)];
  return concatBytes(u16(local.port), ...label, u16(peerPorts.length), ...peerPorts.map(u16));
}

/** Reads claims to the end of the datagram. */
export function decodeClaims(reader: ByteReader, groupCount: number): readonly Claim[] | Drop {
  const claims: Claim[] = [];
  for (let group = 0; group < groupCount; group++) {
    const decoded = decodeGroup(reader);
    if ('drop' in decoded) return decoded;
    claims.push(...decoded);
  }
  return claims;
}

function decodeGroup(reader: ByteReader): Claim[] | Drop {
  const protocol = nameOf(PROTOCOL_NUMBERS, reader.u8());
  const armed = reader.u8();
  const runs = reader.u16();
  const address = addressText(reader.take(ADDRESS_BYTES));
  const peerAddress = addressText(reader.take(ADDRESS_BYTES));
  const wireAddress = armed === 1 ? addressText(reader.take(ADDRESS_BYTES)) : undefined;
  if (reader.overrun()) return { drop: 'too-short' };
  if (protocol === undefined || armed > 1) return { drop: 'value' };
  if (!sameFamily(address, peerAddress) || !sameFamily(address, wireAddress ?? address))
    return { drop: 'value' };
  if (runs === 0) return { drop: 'count' };
  const claims: Claim[] = [];
  for (let run = 0; run < runs; run++) {
    const ports = decodeRun(reader, wireAddress);
    if ('drop' in ports) return ports;
    const { port, arm, peerPorts } = ports;
    claims.push({
      protocol,
      local: { address, port },
      peerAddress,
      peerPorts,
      ...(arm === undefined ? {} : { arm }),
    });
  }
  return claims;
}

type Run = { port: number; arm: Endpoint | undefined; peerPorts: number[] };

function decodeRun(reader: ByteReader, wireAddress: string | undefined): Run | Drop {
  const port = reader.u16();
  const arm = wireAddress === undefined ? undefined : { address: wireAddress, port: reader.u16() };
  const count = reader.u16();
  // Checked before the ports are read: a count must not make work that the datagram doesn't pay for.
  if (reader.overrun() || reader.remaining() < count * PORT_BYTES) return { drop: 'too-short' };
  if (count === 0) return { drop: 'count' };
  const peerPorts = Array.from({ length: count }, () => reader.u16());
  if (port === 0 || arm?.port === 0 || peerPorts.includes(0)) return { drop: 'value' };
  return { port, arm, peerPorts };
}

/**
 * Splits claims into lists that encode to `bytesMax` at most each: same flows, grouped by addresses, every endpoint's
 * ports cut where a part is full.
 */
export function packClaims(claims: readonly Claim[], bytesMax: number): Claim[][] {
  const parts: Claim[][] = [];
  let room = 0;
  let key = '';
  for (const claim of [...Map.groupBy(claims, groupKey).values()].flat()) {
    let ports = claim.peerPorts;
    while (ports.length > 0) {
      const same = key === groupKey(claim);
      const overhead = runBytes(claim) + (same ? 0 : groupHeadBytes(claim));
      const fits = Math.floor((room - overhead) / PORT_BYTES);
      if (fits < 1) {
        parts.push([]);
        [room, key] = [bytesMax, ''];
        continue;
      }
      const taken = ports.slice(0, fits);
      parts.at(-1)?.push({ ...claim, peerPorts: taken });
      room -= overhead + taken.length * PORT_BYTES;
      key = groupKey(claim);
      ports = ports.slice(taken.length);
    }
  }
  return parts;
}

function groupHeadBytes({ arm }: Claim): number {
  return 1 + 1 + 2 + ADDRESS_BYTES * (arm === undefined ? 2 : 3);
}

function runBytes({ arm }: Claim): number {
  return arm === undefined ? 4 : 6;
}

/** Groups that `claims` take on the wire. */
export function groupCount(claims: readonly Claim[]): number {
  return groupRuns(claims).length;
}
