/** What the datapath is told: sides, flow entries, listeners. docs/datapath.md explains the model. */
import type { Endpoint, Protocol } from '../address.ts';

/**
 * - `home`: packets go to and come from slot `active`.
 * - `armed`: as home, and the other slot is already accepted.
 * - `moved`: packets go to and come from the other slot than before.
 * - `held`: nothing is sent to this side, TCP is answered in its place; what `accept` lets in still comes in.
 * - `fenced`: every packet is dropped, both ways.
 * - `leaving`: a local cell that is being frozen: what comes in goes on to where its `Forward` says, or is dropped; what
 *   it said last still goes out.
 * - `frozen`: the same once its processes stand still: what its sockets would still say by themselves is dropped.
 * - `queued`: a local cell that is being restored: what comes in waits for it, what goes out is dropped.
 */
export const SIDE_STATES = [
  'home',
  'armed',
  'moved',
  'held',
  'fenced',
  'queued',
  'leaving',
  'frozen',
] as const;
export type SideState = (typeof SIDE_STATES)[number];

/** One cell, local or remote, as this host sees it. One update of a side switches all its flows at once. */
export type Side = {
  /** 1..2^32-1, unique on this host. */
  readonly id: number;
  readonly state: SideState;
  /** The wire slot that packets to this side are sent to. */
  readonly active: 0 | 1;
  /** Bit s set: packets that come from wire slot s are let in. See `acceptOf`. */
  readonly accept: number;
  /** Host end of the cell's veth; 0 where the cell lives in the host's own namespace, or elsewhere. */
  readonly ifindex: number;
  /** A local cell that begins to run again: the first packets of its sockets are made to count. Costs time where it is set. */
  readonly resumed?: boolean;
  /** Datagrams to it, or of a local one from it, wait in its room, whatever its state: see `Datapath.openRoom`. */
  readonly waits?: boolean;
};

/** Where datagrams of one side wait: a pair of devices, by their indexes. rooms.ts */
export type Room = { readonly side: number; readonly near: number; readonly far: number };

/** What has become of the datagrams of a room. */
export type RoomCounts = {
  readonly came: number;
  /** They went on. */
  readonly left: number;
  /** Dropped when they came out: they had waited for too long. */
  readonly late: number;
};

/** Where a remote side is reached: wire endpoint, and the device that the route to it leaves by. */
export type WireSlot = { readonly endpoint: Endpoint; readonly ifindex: number };

/** One flow as this host translates it. All endpoints of an entry are of one address family. */
export type FlowEntry = {
  readonly protocol: Protocol;
  /** The virtual endpoints, as the transport on this host sees them. */
  readonly local: Endpoint;
  readonly remote: Endpoint;
  /** The local endpoint on the wire: own label at own address for a cell; equal to `local` otherwise. */
  readonly wireLocal: Endpoint;
  readonly wireRemote: readonly [WireSlot | undefined, WireSlot | undefined];
  /** Side of the local, of the remote cell; 0: none. */
  readonly localSide: number;
  readonly remoteSide: number;
  /** Whose socket it is: ifindex of the host end of the cell's veth, 0 for the host's own namespace, or `RELAY`. */
  readonly scope: number;
  /**
   * The device that packets for the local end leave by. 0: into the cell, or up the host's stack where there is none.
   * `LOOPBACK`: the same by way of the cell's, or the host's, own loopback device, where `remote` is an address of that
   * cell's, or host's, own. With `RELAY`: the device towards the peer.
   */
  readonly via: number;
  /** Number of the rule (rules.ts) that the program created it by; without it the agent has entered it. */
  readonly rule?: number;
};

/** Scope of a flow that this host carries on for a peer without an agent: `local` is that peer. */
export const RELAY = 0xffffffff;
/** Index of the loopback device in every network namespace: LOOPBACK_IFINDEX of the kernel. */
export const LOOPBACK = 1;

/** A cell that has programs inside, for its flows with `via` LOOPBACK. */
export type Inside = {
  /** 1..2^16-1: class of its filters. */
  readonly id: number;
  /** Host end of its veth, as in `FlowEntry.scope`. */
  readonly scope: number;
  /** The end inside, as it is numbered there. */
  readonly ifindex: number;
};

/** Which flow of which socket: key of an entry. */
export type FlowId = Pick<FlowEntry, 'protocol' | 'local' | 'remote' | 'scope'>;

/**
 * An entry has two halves, and each has an owner of its own: the cell that holds the socket says where its own end is,
 * and whoever follows the cell at the other end says where that is. Either may be missing: that end is where it always
 * was.
 */
export type LocalHalf = FlowId &
  Pick<FlowEntry, 'wireLocal' | 'localSide' | 'via'> & {
    /** Device of the route to the remote endpoint, for as long as there is no remote half. */
    readonly path: number;
  };
export type RemoteHalf = FlowId & Pick<FlowEntry, 'wireRemote' | 'remoteSide'>;

/** How far a relayed flow has come: no socket of this host says so. */
export type RelayState = {
  readonly id: FlowId;
  /** Of the monotonic clock (process.hrtime.bigint()): the last packet, either way. */
  readonly seenNs: bigint;
  /** TCP: each end has said that it has no more to say. */
  readonly isClosed: boolean;
  /** TCP: the last packet was a reset. */
  readonly isReset: boolean;
};

/** Where packets of `peer` for the wire endpoint `local` go while its side is fenced: to the destination of a move. */
export type Forward = {
  readonly protocol: Protocol;
  readonly local: Endpoint;
  /** Address of the peer's host. */
  readonly peer: string;
  readonly to: WireSlot;
};

/** In the order of `enum counter` of osmosis.bpf.c. Packets since the programs were loaded. */
export const COUNTERS = [
  'translated_in',
  'translated_out',
  'fenced',
  'stale',
  'held',
  'syn_fenced',
  'unknown',
  'fragments',
  'errors',
  'forwarded',
  'queued',
  'relayed',
  'icmp',
  'created',
  'full',
  'no_label',
  'clash',
  'answered',
  'waited',
  'let_out',
  'late',
] as const;
export type Counters = Record<(typeof COUNTERS)[number], number>;

/** The value for `Side.accept` that lets in exactly these slots. */
export function acceptOf(...slots: readonly (0 | 1)[]): number {
  return slots.reduce<number>((mask, slot) => mask | (1 << slot), 0);
}
