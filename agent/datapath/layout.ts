/**
 * Keys and values of the maps, byte for byte as the structs of osmosis.bpf.c: offsets here, _Static_assert there, and
 * e2e/datapath-programs.test.ts compares this table with the type information in the compiled object.
 *
 * Addresses and ports are in network order, all other numbers in the host's (every machine that we run on is
 * little-endian).
 */
import {
  ADDRESS_BYTES,
  addressBytes,
  addressText,
  type Endpoint,
  isSameEndpoint,
  type Protocol,
} from '../address.ts';
import { isProgramLabel } from '../cell/labels.ts';
import {
  COUNTERS,
  type Counters,
  type FlowEntry,
  type Forward,
  type Inside,
  RELAY,
  type RelayState,
  type Room,
  type RoomCounts,
  SIDE_STATES,
  type Side,
  type WireSlot,
} from './model.ts';

/** struct → bytes, and the offset of each member. */
export const LAYOUT = {
  tuple: { bytes: 40, address: 0, port: 32, protocol: 36, pad: 37 },
  egress_key: { bytes: 44, virtual: 0, scope: 40 },
  difference: { bytes: 4, addresses: 0, ports: 2 },
  ingress_value: {
    bytes: 64,
    virtual: 0,
    local_side: 40,
    remote_side: 44,
    difference: 48,
    slot: 52,
    via: 56,
    used: 60,
  },
  wire_slot: { bytes: 28, address: 0, port: 16, identity: 18, ifindex: 20, difference: 24 },
  egress_value: {
    bytes: 92,
    local_address: 0,
    local_port: 16,
    rule: 18,
    local_side: 20,
    remote_side: 24,
    via: 28,
    slots: 32,
    used: 88,
  },
  relay_state: { bytes: 16, ns: 0, ended: 8, pad: 9, received: 12 },
  side: { bytes: 12, state: 0, active: 1, accept: 2, resumed: 3, ifindex: 4, room: 8 },
  room: { bytes: 40, near: 0, side: 4, late_ms: 8, pad: 12, came: 16, left: 24, late: 32 },
  listener: { bytes: 20, address: 0, port: 16, protocol: 18, pad: 19 },
  cell: { bytes: 8, scope: 0, ifindex: 4 },
} as const;

/** As in osmosis.bpf.c. */
const FROM_RELAYED = 2;
const FINS = 1 | 2;
const LAST_WAS_RESET = 4;

/** Assigned Internet protocol numbers (IANA). */
export const PROTOCOL_NUMBERS = { tcp: 6, udp: 17 } as const satisfies Record<Protocol, number>;

export type Tuple = {
  readonly protocol: Protocol;
  readonly local: Endpoint;
  readonly remote: Endpoint;
};

/** Key of map `ingress`: the wire tuple. */
export function encodeTuple(tuple: Tuple): Uint8Array {
  const bytes = new Uint8Array(LAYOUT.tuple.bytes);
  putTuple(bytes, tuple);
  return bytes;
}

/** Value of map `ingress`, for packets that come from wire slot `slot`. */
export function encodeIngress(flow: FlowEntry, slot: 0 | 1): Uint8Array {
  const bytes = new Uint8Array(LAYOUT.ingress_value.bytes);
  putTuple(bytes, flow);
  putU32(bytes, LAYOUT.ingress_value.local_side, flow.localSide);
  putU32(bytes, LAYOUT.ingress_value.remote_side, flow.remoteSide);
  const remote = flow.wireRemote[slot]?.endpoint ?? flow.remote;
  const wire = { protocol: flow.protocol, local: flow.wireLocal, remote };
  putDifference(bytes, LAYOUT.ingress_value.difference, wire, flow);
  putU32(bytes, LAYOUT.ingress_value.slot, slot);
  putU32(bytes, LAYOUT.ingress_value.via, flow.via);
  return bytes;
}

/** Value of map `ingress`, for packets that come from the peer that a flow is relayed for. */
export function encodeRelayed(flow: FlowEntry): Uint8Array {
  const bytes = new Uint8Array(LAYOUT.ingress_value.bytes);
  putTuple(bytes, flow);
  putU32(bytes, LAYOUT.ingress_value.slot, FROM_RELAYED);
  return bytes;
}

export function encodeEgressKey(flow: FlowEntry): Uint8Array {
  const bytes = new Uint8Array(LAYOUT.egress_key.bytes);
  putTuple(bytes, flow);
  putU32(bytes, LAYOUT.egress_key.scope, flow.scope);
  return bytes;
}

export function encodeEgressValue(flow: FlowEntry): Uint8Array {
  const at = LAYOUT.egress_value;
  const bytes = new Uint8Array(at.bytes);
  bytes.set(addressBytes(flow.wireLocal.address), at.local_address);
  putPort(bytes, at.local_port, flow.wireLocal.port);
  putU16(bytes, at.rule, flow.rule ?? 0);
  putU32(bytes, at.local_side, flow.localSide);
  putU32(bytes, at.remote_side, flow.remoteSide);
  putU32(bytes, at.via, flow.via);
  flow.wireRemote.forEach((slot, index) => {
    if (slot === undefined) return;
    const offset = at.slots + index * LAYOUT.wire_slot.bytes;
    const wire = { protocol: flow.protocol, local: flow.wireLocal, remote: slot.endpoint };
    putWireSlot(bytes, offset, slot);
    putDifference(bytes, offset + LAYOUT.wire_slot.difference, flow, wire);
    putU16(bytes, offset + LAYOUT.wire_slot.identity, isPlain(flow, slot) ? 1 : 0);
  });
  return bytes;
}

/**
 * Nothing is to be changed on the way out by this slot. An end that no cell of this host has is where it always was while
 * the other one is: a label that it was given is for the way to another place. But a label that a program has drawn is the
 * name by which the cell knows it, wherever that is.
 */
function isPlain(flow: FlowEntry, { endpoint }: WireSlot): boolean {
  if (!isSameEndpoint(endpoint, flow.remote)) return false;
  if (isSameEndpoint(flow.wireLocal, flow.local)) return true;
  return flow.localSide === 0 && !(flow.scope === RELAY && isProgramLabel(flow.wireLocal.port));
}

/** The flow entry that one element of map `egress` stands for. */
export function decodeEgress(key: Uint8Array, value: Uint8Array): FlowEntry {
  const at = LAYOUT.egress_value;
  const rule = u16At(value, at.rule);
  return {
    ...decodeTuple(key),
    wireLocal: endpointAt(value, at.local_address, at.local_port),
    wireRemote: [wireSlotAt(value, at.slots), wireSlotAt(value, at.slots + LAYOUT.wire_slot.bytes)],
    localSide: u32At(value, at.local_side),
    remoteSide: u32At(value, at.remote_side),
    scope: u32At(key, LAYOUT.egress_key.scope),
    via: u32At(value, at.via),
    ...(rule === 0 ? {} : { rule }),
  };
}

/** In `used` of a flow of UDP: 2^30 ns of the monotonic clock. 0: not since the agent has entered it. */
const USED_NS_BITS = 30n;

/** Values of maps `ingress` and `egress` of one flow: since when, in ms, none of them has been used. */
export function idleMs(
  ingress: readonly Uint8Array[],
  egress: Uint8Array,
  nowNs = process.hrtime.bigint(),
): number {
  const used = [
    u32At(egress, LAYOUT.egress_value.used),
    ...ingress.map((value) => u32At(value, LAYOUT.ingress_value.used)),
  ];
  const ticks = Number(nowNs >> USED_NS_BITS) - Math.max(...used);
  return ticks * Number(1n << USED_NS_BITS) * 1e-6;
}

/** Value of map `relays`, for a flow that begins to be relayed now. `ns`: of the monotonic clock. */
export function encodeRelayState(ns: bigint): Uint8Array {
  const bytes = new Uint8Array(LAYOUT.relay_state.bytes);
  view(bytes).setBigUint64(LAYOUT.relay_state.ns, ns, true);
  return bytes;
}

export function decodeRelayState(key: Uint8Array, value: Uint8Array): RelayState {
  const { ns, ended } = LAYOUT.relay_state;
  const bits = value[ended] ?? 0;
  return {
    id: { ...decodeTuple(key), scope: RELAY },
    seenNs: view(value).getBigUint64(ns, true),
    isClosed: (bits & FINS) === FINS,
    isReset: (bits & LAST_WAS_RESET) !== 0,
  };
}

/** Key of map `forwards`: a tuple without the peer's port. */
export function encodeForwardKey({ protocol, local, peer }: Forward): Uint8Array {
  return encodeTuple({ protocol, local, remote: { address: peer, port: 0 } });
}

export function encodeForwardValue({ protocol, local, peer, to }: Forward): Uint8Array {
  const bytes = new Uint8Array(LAYOUT.wire_slot.bytes);
  const remote = { address: peer, port: 0 };
  putWireSlot(bytes, 0, to);
  putDifference(
    bytes,
    LAYOUT.wire_slot.difference,
    { protocol, local, remote },
    { protocol, local: to.endpoint, remote },
  );
  return bytes;
}

export function decodeForward(key: Uint8Array, value: Uint8Array): Forward {
  const { protocol, local, remote } = decodeTuple(key);
  const to = wireSlotAt(value, 0);
  if (to === undefined) throw new RangeError('a forward leads nowhere');
  return { protocol, local, peer: remote.address, to };
}

/** Key of maps `sides`, `cells` and `watched` (a port). */
export function encodeId(id: number): Uint8Array {
  const bytes = new Uint8Array(4);
  putU32(bytes, 0, id);
  return bytes;
}

/** `room`: far end of the room that its datagrams wait in, if they do. */
export function encodeSide(side: Side, room = 0): Uint8Array {
  const bytes = new Uint8Array(LAYOUT.side.bytes);
  bytes[LAYOUT.side.state] = SIDE_STATES.indexOf(side.state);
  bytes[LAYOUT.side.active] = side.active;
  bytes[LAYOUT.side.accept] = side.accept;
  bytes[LAYOUT.side.resumed] = side.resumed === true ? 1 : 0;
  putU32(bytes, LAYOUT.side.ifindex, side.ifindex);
  putU32(bytes, LAYOUT.side.room, side.waits === true ? room : 0);
  return bytes;
}

export function decodeSide(key: Uint8Array, value: Uint8Array): Side {
  const state = SIDE_STATES[value[LAYOUT.side.state] ?? SIDE_STATES.length];
  if (state === undefined) throw new RangeError(`side ${u32At(key, 0)} has an unknown state`);
  return {
    id: u32At(key, 0),
    state,
    active: value[LAYOUT.side.active] === 1 ? 1 : 0,
    accept: value[LAYOUT.side.accept] ?? 0,
    ifindex: u32At(value, LAYOUT.side.ifindex),
    ...(value[LAYOUT.side.resumed] === 1 && { resumed: true }),
    ...(u32At(value, LAYOUT.side.room) !== 0 && { waits: true }),
  };
}

/** Element of map `rooms`, by the far end. */
export function encodeRoom({ near, side }: Room, lateMs: number): Uint8Array {
  const bytes = new Uint8Array(LAYOUT.room.bytes);
  putU32(bytes, LAYOUT.room.near, near);
  putU32(bytes, LAYOUT.room.side, side);
  putU32(bytes, LAYOUT.room.late_ms, lateMs);
  return bytes;
}

export function decodeRoom(key: Uint8Array, value: Uint8Array): Room & RoomCounts {
  const at = LAYOUT.room;
  const count = (offset: number) => Number(view(value).getBigUint64(offset, true));
  return {
    side: u32At(value, at.side),
    near: u32At(value, at.near),
    far: u32At(key, 0),
    came: count(at.came),
    left: count(at.left),
    late: count(at.late),
  };
}

export function encodeCell(cell: Inside): Uint8Array {
  const bytes = new Uint8Array(LAYOUT.cell.bytes);
  putU32(bytes, LAYOUT.cell.scope, cell.scope);
  putU32(bytes, LAYOUT.cell.ifindex, cell.ifindex);
  return bytes;
}

export function decodeCell(key: Uint8Array, value: Uint8Array): Inside {
  return {
    id: u32At(key, 0),
    scope: u32At(value, LAYOUT.cell.scope),
    ifindex: u32At(value, LAYOUT.cell.ifindex),
  };
}

/** Key of map `listeners`: TCP; address `::` stands for any address, `0.0.0.0` for any of IPv4. */
export function encodeListener(endpoint: Endpoint): Uint8Array {
  const bytes = new Uint8Array(LAYOUT.listener.bytes);
  bytes.set(addressBytes(endpoint.address), LAYOUT.listener.address);
  putPort(bytes, LAYOUT.listener.port, endpoint.port);
  bytes[LAYOUT.listener.protocol] = PROTOCOL_NUMBERS.tcp;
  return bytes;
}

export function decodeListener(key: Uint8Array): Endpoint {
  return endpointAt(key, LAYOUT.listener.address, LAYOUT.listener.port);
}

/** `perCpu` has, for each counter in order, its 8-byte values of all CPUs. */
export function decodeCounters(perCpu: readonly (readonly Uint8Array[])[]): Counters {
  const total = (values: readonly Uint8Array[] = []) =>
    values.reduce((sum, value) => sum + Number(view(value).getBigUint64(0, true)), 0);
  return Object.fromEntries(COUNTERS.map((name, index) => [name, total(perCpu[index])])) as Counters;
}

/** Key of maps `ingress`, `egress` (without its scope) and `seen`. */
export function decodeTuple(bytes: Uint8Array): Tuple {
  const { address, port, protocol } = LAYOUT.tuple;
  return {
    protocol: protocolOf(bytes[protocol] ?? 0),
    local: endpointAt(bytes, address, port),
    remote: endpointAt(bytes, address + ADDRESS_BYTES, port + 2),
  };
}

export function protocolOf(number: number): Protocol {
  if (number === PROTOCOL_NUMBERS.tcp) return 'tcp';
  if (number === PROTOCOL_NUMBERS.udp) return 'udp';
  throw new RangeError(`an entry has the unknown protocol ${number}`);
}

function putTuple(bytes: Uint8Array, { protocol, local, remote }: Tuple): void {
  const at = LAYOUT.tuple;
  bytes.set(addressBytes(local.address), at.address);
  bytes.set(addressBytes(remote.address), at.address + ADDRESS_BYTES);
  putPort(bytes, at.port, local.port);
  putPort(bytes, at.port + 2, remote.port);
  bytes[at.protocol] = PROTOCOL_NUMBERS[protocol];
}

function putWireSlot(bytes: Uint8Array, offset: number, { endpoint, ifindex }: WireSlot): void {
  bytes.set(addressBytes(endpoint.address), offset + LAYOUT.wire_slot.address);
  putPort(bytes, offset + LAYOUT.wire_slot.port, endpoint.port);
  putU32(bytes, offset + LAYOUT.wire_slot.ifindex, ifindex);
}

/**
 * What turns the checksum of a packet with `from` into that of the same packet with `to`: the one's complement sums of
 * the 16-bit words that come and of the complements of those that go (RFC 1624), words as this host loads them. Whether
 * a word is in the source or the destination field makes no difference. Zero has one form only: 0.
 */
function putDifference(bytes: Uint8Array, offset: number, from: Tuple, to: Tuple): void {
  const { port, protocol } = LAYOUT.tuple;
  const [gone, come] = [encodeTuple(from), encodeTuple(to)];
  putU16(
    bytes,
    offset + LAYOUT.difference.addresses,
    difference(gone.subarray(0, port), come.subarray(0, port)),
  );
  const ports = difference(gone.subarray(port, protocol), come.subarray(port, protocol));
  putU16(bytes, offset + LAYOUT.difference.ports, ports);
}

function difference(gone: Uint8Array, come: Uint8Array): number {
  let sum = 0;
  for (let offset = 0; offset < gone.length; offset += 2) {
    sum += view(come).getUint16(offset, true) + (0xffff - view(gone).getUint16(offset, true));
  }
  // Modulo 0xffff is what folding the carries in again comes to.
  return sum % 0xffff;
}

/** A slot is in use where its port is not zero: neither TCP nor UDP sends from port 0. */
function wireSlotAt(bytes: Uint8Array, offset: number): WireSlot | undefined {
  const endpoint = endpointAt(bytes, offset + LAYOUT.wire_slot.address, offset + LAYOUT.wire_slot.port);
  if (endpoint.port === 0) return undefined;
  return { endpoint, ifindex: u32At(bytes, offset + LAYOUT.wire_slot.ifindex) };
}

export function endpointAt(bytes: Uint8Array, address: number, port: number): Endpoint {
  return {
    address: addressText(bytes.subarray(address, address + ADDRESS_BYTES)),
    port: view(bytes).getUint16(port),
  };
}

export function putPort(bytes: Uint8Array, offset: number, port: number): void {
  view(bytes).setUint16(offset, port);
}

export function putU16(bytes: Uint8Array, offset: number, value: number): void {
  view(bytes).setUint16(offset, value, true);
}

export function putU32(bytes: Uint8Array, offset: number, value: number): void {
  view(bytes).setUint32(offset, value, true);
}

export function u16At(bytes: Uint8Array, offset: number): number {
  return view(bytes).getUint16(offset, true);
}

export function u32At(bytes: Uint8Array, offset: number): number {
  return view(bytes).getUint32(offset, true);
}

function view(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
