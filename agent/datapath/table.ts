/**
 * What is in the maps, mirrored, so that the agent knows which keys a change makes stale. Pure: a change of the mirror
 * answers with the elements to write and to delete, in that order.
 */
import { endpointText, flowKey } from '../address.ts';
import { OsmosisError } from '../error.ts';
import {
  encodeEgressKey,
  encodeEgressValue,
  encodeIngress,
  encodeRelayed,
  encodeRelayState,
  encodeTuple,
  type Tuple,
} from './layout.ts';
import { type FlowEntry, LOOPBACK, RELAY } from './model.ts';

/** As in osmosis.bpf.c. */
export const FLOWS_MAX = 65_536;
export const SIDES_MAX = 16_384;
export const LISTENERS_MAX = 1_024;
export const FORWARDS_MAX = 16_384;

export type Change = {
  readonly map: 'ingress' | 'egress' | 'relays';
  readonly key: Uint8Array;
  /** Without it the element is deleted. */
  readonly value?: Uint8Array;
};

export type FlowTable = {
  /** By scope and virtual endpoints. */
  readonly flows: Map<string, FlowEntry>;
  /** Wire tuple → the flow, by its key in `flows`, whose packets have it. */
  readonly wires: Map<string, string>;
  /** Wire tuples that a flow had before and that are let in on: see `Datapath.moveLocals`. By flowKey. */
  readonly former: Set<string>;
};

export function createTable(flows: readonly FlowEntry[] = []): FlowTable {
  const table: FlowTable = { flows: new Map(), wires: new Map(), former: new Set() };
  // Of two that claim a wire tuple the relay has it: see mayTakeOver.
  for (const flow of flows) if (flow.scope !== RELAY) adoptFlow(table, flow);
  for (const flow of flows) if (flow.scope === RELAY) adoptFlow(table, flow);
  return table;
}

/**
 * Enters a flow or replaces the one of the same scope and virtual endpoints. Throws before anything is changed.
 * `nowNs`: of the monotonic clock; a relayed flow counts as in use from then on.
 */
export function putFlow(table: FlowTable, flow: FlowEntry, nowNs = process.hrtime.bigint()): Change[] {
  const key = keyOf(flow);
  checkFlow(flow);
  for (const [wire] of wiresOf(flow)) checkFree(table, key, flow, wire);
  if (!table.flows.has(key) && table.flows.size >= FLOWS_MAX) throw full(`${FLOWS_MAX} flows`);
  const isNewRelay = flow.scope === RELAY && !table.flows.has(key);
  const stale = dropFlow(table, key);
  adoptFlow(table, flow);
  // The way in is there before the first packet goes out that could be answered.
  return [
    ...(isNewRelay ? [write('relays', encodeTuple(flow), encodeRelayState(nowNs))] : []),
    ...wiresOf(flow).map(([wire, from]) => write('ingress', encodeTuple(wire), wayIn(flow, from))),
    write('egress', encodeEgressKey(flow), encodeEgressValue(flow)),
    ...stale
      .filter((wire) => !table.wires.has(flowKey(wire)))
      .map((wire) => erase('ingress', encodeTuple(wire))),
  ];
}

/** Takes the flow of this scope and these virtual endpoints out; no change where it is not there. */
export function removeFlow(
  table: FlowTable,
  flow: Pick<FlowEntry, 'protocol' | 'local' | 'remote' | 'scope'>,
): Change[] {
  const known = table.flows.get(keyOf(flow));
  if (known === undefined) return [];
  const wires = dropFlow(table, keyOf(flow));
  return [
    erase('egress', encodeEgressKey(known)),
    ...wires.map((wire) => erase('ingress', encodeTuple(wire))),
    ...(known.scope === RELAY ? [erase('relays', encodeTuple(known))] : []),
  ];
}

export function full(what: string): OsmosisError {
  return new OsmosisError('DATAPATH', `the datapath holds ${what} and no more; move fewer at a time`);
}

/** One string for the scope and the virtual endpoints of a flow: what `FlowTable` has it by. */
export function keyOf(flow: Pick<FlowEntry, 'protocol' | 'local' | 'remote' | 'scope'>): string {
  return `${flow.scope} ${flowKey(flow)}`;
}

/** Into the mirror only: the kernel has it. */
export function adoptFlow(table: FlowTable, flow: FlowEntry): void {
  table.flows.set(keyOf(flow), flow);
  for (const [wire] of wiresOf(flow)) {
    table.wires.set(flowKey(wire), keyOf(flow));
    table.former.delete(flowKey(wire));
  }
}

/** Out of the mirror only, by `keyOf`; answers with the wire tuples that were the flow's: another may have taken one over. */
export function dropFlow(table: FlowTable, key: string): Tuple[] {
  const known = table.flows.get(key);
  const wires = known === undefined ? [] : wiresOf(known).map(([wire]) => wire);
  const own = wires.filter((wire) => table.wires.get(flowKey(wire)) === key);
  for (const wire of own) table.wires.delete(flowKey(wire));
  table.flows.delete(key);
  return own;
}

type From = 0 | 1 | 'relayed';

function wayIn(flow: FlowEntry, from: From): Uint8Array {
  return from === 'relayed' ? encodeRelayed(flow) : encodeIngress(flow, from);
}

/** All that packets of the flow can have as wire tuple where they come in, and where those come from. */
export function wiresOf({
  protocol,
  local,
  remote,
  scope,
  wireLocal,
  wireRemote,
}: FlowEntry): [Tuple, From][] {
  const tuples: [Tuple, From][] = [];
  for (const slot of [0, 1] as const) {
    const endpoint = wireRemote[slot]?.endpoint;
    if (endpoint !== undefined) tuples.push([{ protocol, local: wireLocal, remote: endpoint }, slot]);
  }
  // The peer that is relayed for knows only the virtual endpoints, and is the remote end as this host sees it.
  if (scope === RELAY) tuples.push([{ protocol, local: remote, remote: local }, 'relayed']);
  return tuples;
}

function checkFlow(flow: FlowEntry): void {
  const slots = flow.wireRemote.flatMap((slot) => (slot === undefined ? [] : [slot.endpoint]));
  const endpoints = [flow.local, flow.remote, flow.wireLocal, ...slots];
  const families = new Set(endpoints.map(({ address }) => address.includes(':')));
  const [first, second] = slots.map(endpointText);
  if (slots.length === 0) throw bad(flow, 'has no wire endpoint of its remote side');
  if (first === second) throw bad(flow, 'has the same wire endpoint in both slots');
  if (families.size !== 1) throw bad(flow, 'mixes IPv4 and IPv6');
  if (endpoints.some(({ port }) => port === 0)) throw bad(flow, 'has port 0');
  if (flow.scope === RELAY && [0, LOOPBACK].includes(flow.via)) throw bad(flow, 'is relayed to nowhere');
}

function checkFree(table: FlowTable, key: string, flow: FlowEntry, wire: Tuple): void {
  const owner = table.wires.get(flowKey(wire));
  if (owner === undefined || owner === key || mayTakeOver(flow, table.flows.get(owner))) return;
  throw new OsmosisError(
    'DATAPATH',
    `${flowKey(wire)} on the wire belongs to flow ${owner} already, not to ${key}`,
  );
}

/**
 * The flow of a process that leaves its home is relayed from the next packet on, and the other way round when it is back:
 * one element changes hands, so that no packet finds none. The other flow is to be taken out then.
 */
function mayTakeOver(flow: FlowEntry, owner: FlowEntry | undefined): boolean {
  return owner !== undefined && (flow.scope === RELAY) !== (owner.scope === RELAY);
}

function bad(flow: FlowEntry, problem: string): OsmosisError {
  return new OsmosisError('DATAPATH', `flow ${flowKey(flow)} ${problem}; this is a bug, please report it`);
}

function write(map: Change['map'], key: Uint8Array, value: Uint8Array): Change {
  return { map, key, value };
}

function erase(map: Change['map'], key: Uint8Array): Change {
  return { map, key };
}
