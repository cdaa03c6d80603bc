/** What the agent knows of the maps: the kernel is asked only for what the programs enter by themselves. */
import { type Endpoint, endpointText } from '../address.ts';
import { OsmosisError } from '../error.ts';
import { type FlowEntry, type Forward, type Inside, LOOPBACK, type Room, type Side } from './model.ts';
import { encodeRuleKey, type NumberedRule, type Rule } from './rules.ts';
import type { Snapshot } from './snapshot.ts';
import { createTable, type FlowTable } from './table.ts';

export type Mirror = {
  readonly table: FlowTable;
  readonly sides: Map<number, Side>;
  readonly listeners: Map<string, Endpoint>;
  readonly forwards: Map<string, Forward>;
  /** By scope. */
  readonly insides: Map<number, Inside>;
  /** By side. */
  readonly rooms: Map<number, Room>;
  readonly rules: Map<string, NumberedRule>;
  /** One for each reading under way: the flows, by `keyOf`, that the agent has changed since it began. */
  readonly changed: Set<Set<string>>;
  /** There have been rules: the kernel may have flows that are not in here. */
  ruled: boolean;
};

type Contents = Pick<Snapshot, 'flows' | 'sides' | 'listeners' | 'forwards' | 'insides' | 'rooms' | 'rules'>;

export function mirrorOf({ flows, sides, listeners, forwards, insides, rooms, rules }: Contents): Mirror {
  return {
    table: createTable(flows),
    sides: new Map(sides.map((side) => [side.id, side])),
    listeners: new Map(listeners.map((endpoint) => [endpointText(endpoint), endpoint])),
    forwards: new Map(forwards.map((forward) => [forwardText(forward), forward])),
    insides: new Map(insides.map((inside) => [inside.scope, inside])),
    rooms: new Map(rooms.map(({ side, near, far }) => [side, { side, near, far }])),
    rules: new Map(rules.map((rule) => [ruleText(rule.rule), rule])),
    changed: new Set(),
    // Created flows outlive their rules.
    ruled: rules.length > 0 || flows.some(({ rule }) => rule !== undefined),
  };
}

export function isEmpty({ table, sides, listeners, forwards, insides, rooms, rules }: Mirror): boolean {
  const maps = [table.flows, sides, listeners, forwards, insides, rooms, rules];
  return maps.every(({ size }) => size === 0);
}

/** @throws OsmosisError DATAPATH where one of these sides (0: none) is not there. */
export function checkSides({ sides }: Mirror, ids: readonly number[]): void {
  const missing = ids.find((id) => id !== 0 && !sides.has(id));
  if (missing === undefined) return;
  throw new OsmosisError(
    'DATAPATH',
    `side ${missing} of a flow or rule is not there; put the side before its flows and rules`,
  );
}

/** Whether the host's loopback device needs its settings: see loopback.ts. */
export function needsLoopback({ table, rules }: Mirror): boolean {
  return (
    [...table.flows.values()].some(isViaLoopback) || [...rules.values()].some(({ rule }) => isOfOwn(rule))
  );
}

/** The flows that it creates for sockets of this host are `via` LOOPBACK: their remote endpoint has an address of its own. */
export function isOfOwn(rule: Rule): boolean {
  return rule.kind === 'follow' && rule.labels !== undefined;
}

export function isViaLoopback({ via }: Pick<FlowEntry, 'via'>): boolean {
  return via === LOOPBACK;
}

/** What `Mirror.forwards` has it by. */
export function forwardText({ protocol, local, peer }: Forward): string {
  return `${protocol} ${endpointText(local)} ${peer}`;
}

/** What `Mirror.rules` has it by. */
export function ruleText(rule: Rule): string {
  return `${rule.kind} ${encodeRuleKey(rule)}`;
}
