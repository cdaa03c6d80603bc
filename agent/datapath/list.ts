/** What the datapath holds, as text for people: `osmosis datapath`. Pure. */
import { endpointText, isSameEndpoint } from '../address.ts';
import { type FlowEntry, RELAY, type Side, type WireSlot } from './model.ts';
import type { NumberedRule } from './rules.ts';
import type { Snapshot } from './snapshot.ts';

const GAP = '  ';

/** Sections for sides, flows, fenced listeners, forwards, rules for new flows, rooms, devices and the counters that are not zero. */
export function listText({
  flows,
  sides,
  listeners,
  forwards,
  insides,
  rooms,
  rules,
  devices,
  counters,
}: Snapshot): string {
  const counted = Object.entries(counters).filter(([, packets]) => packets > 0);
  const sections = [
    section('SIDE', ['STATE', 'ACTIVE', 'ACCEPTS', 'IFINDEX'], sides.map(sideRow)),
    section('FLOW', ['LOCAL', 'REMOTE', 'WIRE LOCAL', 'WIRE REMOTE', 'SIDES'], flows.map(flowRow(sides))),
    section(
      'FENCED LISTENER',
      [],
      listeners.map((endpoint) => [endpointText(endpoint)]),
    ),
    section(
      'FORWARD',
      ['OF PEER', 'TO'],
      forwards.map(({ local, peer, to }) => [endpointText(local), peer, slotText(to)]),
    ),
    section('NEW FLOWS', ['GO TO', 'FLOWS'], rules.map(ruleRow(flows))),
    section(
      'INSIDE',
      ['OF CELL AT', 'IFINDEX'],
      insides.map(({ id, scope, ifindex }) => [String(id), String(scope), String(ifindex)]),
    ),
    section(
      'ROOM OF SIDE',
      ['CAME', 'LEFT', 'TOO LATE'],
      rooms.map(({ side, came, left, late }) => [side, came, left, late].map(String)),
    ),
    section(
      'DEVICE',
      ['PROGRAMS'],
      devices.map(({ name, programs }) => [name, programs.join(' ')]),
    ),
    section(
      'PACKETS',
      ['COUNT'],
      counted.map(([name, packets]) => [name, String(packets)]),
    ),
  ].filter((text) => text !== '');
  return sections.length === 0 ? 'The datapath is empty.' : sections.join('\n\n');
}

function section(title: string, columns: readonly string[], rows: readonly (readonly string[])[]): string {
  return rows.length === 0 ? '' : table([[title, ...columns], ...rows]);
}

function table(rows: readonly (readonly string[])[]): string {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)));
  const line = (row: readonly string[]) =>
    row.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join(GAP);
  return rows.map((row) => line(row).trimEnd()).join('\n');
}

function sideRow({ id, state, active, accept, ifindex }: Side): string[] {
  const accepted = [0, 1].filter((slot) => (accept >> slot) & 1).join(',');
  return [String(id), state, String(active), accepted || '-', ifindex === 0 ? '-' : String(ifindex)];
}

/** `%n` is an ifindex; a star marks the slot of a remote side that packets go to; `=` is "as the virtual one". */
function flowRow(sides: readonly Side[]): (flow: FlowEntry) => string[] {
  const activeOf = new Map(sides.map(({ id, active }) => [id, active]));
  return (flow) => {
    const active = activeOf.get(flow.remoteSide) ?? 0;
    const slots = flow.wireRemote.flatMap((slot, index) =>
      slot === undefined
        ? []
        : [index === active && flow.remoteSide !== 0 ? `${slotText(slot)}*` : slotText(slot)],
    );
    return [
      `${flow.protocol}${scopeText(flow)}`,
      endpointText(flow.local),
      endpointText(flow.remote),
      isSameEndpoint(flow.wireLocal, flow.local) ? '=' : endpointText(flow.wireLocal),
      slots.join(' '),
      `${flow.localSide || '-'}/${flow.remoteSide || '-'}`,
    ];
  };
}

/** `%n`: of the cell behind that device; `>n`: packets for the local end leave by that device; `relay`: to a legacy peer. */
function scopeText({ scope, via }: FlowEntry): string {
  if (scope === RELAY) return ` relay>${via}`;
  return `${scope === 0 ? '' : `%${scope}`}${via === 0 ? '' : `>${via}`}`;
}

/** `FLOWS`: those that the rule has created, of so many at most. */
function ruleRow(flows: readonly FlowEntry[]): (rule: NumberedRule) => string[] {
  return ({ rule, number }) => {
    const created = flows.filter((flow) => flow.rule === number).length;
    return [...ruleTexts(rule), `${created}/${rule.flowsMax}`];
  };
}

function ruleTexts(rule: NumberedRule['rule']): [string, string] {
  if (rule.kind === 'accept')
    return [
      `to ${rule.protocol} ${endpointText(rule.wire)}`,
      `${endpointText(rule.local)} in cell %${rule.scope}`,
    ];
  if (rule.kind === 'follow') return [`to ${rule.protocol} ${endpointText(rule.remote)}`, slotText(rule.to)];
  const { first, count } = rule.labels;
  const label = `${first}-${first + count - 1}`;
  return [
    `of cell %${rule.scope} to ${rule.prefix}/${rule.bits}`,
    `${rule.address}:${label}%${rule.ifindex}`,
  ];
}

function slotText({ endpoint, ifindex }: WireSlot): string {
  return `${endpointText(endpoint)}%${ifindex}`;
}
