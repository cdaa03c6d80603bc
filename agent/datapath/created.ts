/** Flows that the program has created by rules: taken into the mirror, counted, and picked out for removal. Pure. */
import { endpointText, flowKey } from '../address.ts';
import type { Element } from './bpftool.ts';
import { decodeEgress, decodeTuple, encodeTuple, idleMs } from './layout.ts';
import type { FlowEntry, Side } from './model.ts';
import { type DrawnLabel, decodeDrawn, type NumberedRule, RULES_MAX } from './rules.ts';
import { adoptFlow, dropFlow, type FlowTable, keyOf, wiresOf } from './table.ts';

/** What is read of the kernel before the flows: whatever is in it has its flow in what is read then. */
export type Reading = {
  /** Of map `spent`, by number. */
  readonly spent: readonly number[];
  readonly drawn: readonly DrawnLabel[];
  readonly ingress: readonly Element[];
  /** The agent has changed flows since the reading began. */
  readonly changed: boolean;
};

/** Map `spent`, by number. */
export function decodeSpent(elements: readonly Element[]): number[] {
  return elements.map(({ values: [value] }) =>
    value === undefined ? 0 : Buffer.from(value).readUInt32LE(0),
  );
}

export function decodeLabels(elements: readonly Element[]): DrawnLabel[] {
  return elements.flatMap(({ key, values: [value] }) =>
    value === undefined ? [] : [decodeDrawn(key, value)],
  );
}

/**
 * Takes created flows that the mirror does not have, or has with another wire tuple, into it. `changed`: by `keyOf`,
 * those that the agent has changed while the kernel was being read.
 */
export function adoptCreated(
  table: FlowTable,
  flows: readonly FlowEntry[],
  changed: ReadonlySet<string>,
): void {
  for (const flow of flows) {
    if (flow.rule === undefined || changed.has(keyOf(flow))) continue;
    const known = table.flows.get(keyOf(flow));
    if (known !== undefined && known.rule === undefined) continue;
    if (known !== undefined) dropFlow(table, keyOf(flow));
    adoptFlow(table, flow);
  }
}

/** Of these flows of UDP, which the programs have created, those that nothing has passed by for `msMax`, either way. */
export function idleFlows(
  egress: readonly Element[],
  ingress: readonly Element[],
  msMax: number,
  nowNs = process.hrtime.bigint(),
): FlowEntry[] {
  const ways = new Map(ingress.map(({ key, values: [value] }) => [text(key), value]));
  return egress.flatMap(({ key, values: [value] }) => {
    if (value === undefined) return [];
    const flow = decodeEgress(key, value);
    if (flow.rule === undefined || flow.protocol !== 'udp') return [];
    const waysIn = wiresOf(flow).flatMap(([wire]) => ways.get(text(encodeTuple(wire))) ?? []);
    return idleMs(waysIn, value, nowNs) > msMax ? [flow] : [];
  });
}

/** Keys of the ways in that no flow of the mirror has: of flows that were renewed, or replaced while being created. */
export function orphans(table: FlowTable, ingress: readonly Element[]): Uint8Array[] {
  const wires = new Set(
    [...table.flows.values()].flatMap((flow) => wiresOf(flow).map(([wire]) => text(encodeTuple(wire)))),
  );
  const isFormer = (key: Uint8Array) => table.former.has(flowKey(decodeTuple(key)));
  return ingress.map(({ key }) => key).filter((key) => !wires.has(text(key)) && !isFormer(key));
}

/** Labels whose endpoint has no flow in the mirror. */
export function unusedLabels(table: FlowTable, drawn: readonly DrawnLabel[]): DrawnLabel[] {
  const ownerOf = ({ scope, protocol, local }: Pick<DrawnLabel, 'scope' | 'protocol' | 'local'>) =>
    `${scope} ${protocol} ${endpointText(local)}`;
  const used = new Set([...table.flows.values()].map(ownerOf));
  return drawn.filter((label) => !used.has(ownerOf(label)));
}

/** The rules whose limit has to be raised or lowered, because flows that they created are gone. */
export function newLimits(
  table: FlowTable,
  rules: Iterable<NumberedRule>,
  spent: readonly number[],
): NumberedRule[] {
  const live = new Map<number, number>();
  for (const { rule } of table.flows.values())
    if (rule !== undefined) live.set(rule, (live.get(rule) ?? 0) + 1);
  return [...rules].flatMap((known) => {
    const { rule, number } = known;
    const limit = ((spent[number] ?? 0) - (live.get(number) ?? 0) + rule.flowsMax) >>> 0;
    return limit === known.limit ? [] : [{ ...known, limit }];
  });
}

/** A number that no rule has, and no flow of a rule that is gone. */
export function freeNumber(table: FlowTable, rules: Iterable<NumberedRule>): number | undefined {
  const used = new Set<number>([...rules].map(({ number }) => number));
  for (const { rule } of table.flows.values()) if (rule !== undefined) used.add(rule);
  for (let number = 1; number < RULES_MAX; number++) if (!used.has(number)) return number;
  return undefined;
}

/** Of which side, or of which cell's veth, a created flow is. */
export function belongsTo(owner: { readonly side: Side['id'] } | { readonly scope: number }) {
  return (flow: FlowEntry): boolean =>
    'side' in owner
      ? flow.localSide === owner.side || flow.remoteSide === owner.side
      : flow.scope === owner.scope;
}

function text(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('latin1');
}
