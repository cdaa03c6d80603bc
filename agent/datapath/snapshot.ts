/** The maps, read and decoded. */
import type { Endpoint } from '../address.ts';
import { OsmosisError } from '../error.ts';
import type { AttachedDevice } from './attach.ts';
import type { Element, MapName } from './bpftool.ts';
import {
  decodeCell,
  decodeCounters,
  decodeEgress,
  decodeForward,
  decodeListener,
  decodeRoom,
  decodeSide,
  LAYOUT,
} from './layout.ts';
import type { Counters, FlowEntry, Forward, Inside, Room, RoomCounts, Side } from './model.ts';
import { dumpMaps } from './pins.ts';
import { decodeRule, type NumberedRule, RULE_MAPS, type RuleMap } from './rules.ts';
import type { Run } from './run.ts';

/** Everything that is in the kernel. */
export type Snapshot = {
  readonly flows: readonly FlowEntry[];
  readonly sides: readonly Side[];
  /** Listening TCP endpoints whose new connections are dropped. */
  readonly listeners: readonly Endpoint[];
  readonly forwards: readonly Forward[];
  readonly insides: readonly Inside[];
  readonly rooms: readonly (Room & RoomCounts)[];
  readonly rules: readonly NumberedRule[];
  readonly counters: Counters;
  readonly devices: readonly AttachedDevice[];
};

/** Nothing is loaded. */
export const EMPTY: Snapshot = {
  flows: [],
  sides: [],
  listeners: [],
  forwards: [],
  insides: [],
  rooms: [],
  rules: [],
  counters: decodeCounters([]),
  devices: [],
};

/** All of what a map has. */
export type Dump = (map: MapName, signal?: AbortSignal) => Promise<Element[]>;

const READ_MAPS = [
  'egress',
  'sides',
  'listeners',
  'forwards',
  'cells',
  'rooms',
  'counters',
  ...RULE_MAPS,
] as const;

export async function readMaps(
  run: Run,
  pinDir: string,
  signal?: AbortSignal,
): Promise<Omit<Snapshot, 'devices'>> {
  const maps = await dumpMaps(run, pinDir, READ_MAPS, signal);
  const of = (map: (typeof READ_MAPS)[number]) => maps.get(map) ?? [];
  return {
    flows: of('egress').map(flowOf),
    sides: of('sides').map((element) => decodeSide(element.key, soleValue(element))),
    listeners: of('listeners').map(({ key }) => decodeListener(key)),
    forwards: of('forwards').map((element) => decodeForward(element.key, soleValue(element))),
    insides: of('cells').map((element) => decodeCell(element.key, soleValue(element))),
    rooms: of('rooms').map((element) => decodeRoom(element.key, soleValue(element))),
    rules: RULE_MAPS.flatMap((map) => rulesOf(map, of(map))),
    counters: decodeCounters(of('counters').map(({ values }) => values)),
  };
}

export async function readFlows(dump: Dump, signal?: AbortSignal): Promise<FlowEntry[]> {
  return (await dump('egress', signal)).map(flowOf);
}

function flowOf(element: Element): FlowEntry {
  return decodeEgress(element.key, flowValue(element));
}

function rulesOf(map: RuleMap, elements: readonly Element[]): NumberedRule[] {
  return elements.map((element) => decodeRule(map, element.key, soleValue(element)));
}

/** Entries that were pinned with another layout are told by their size. */
function flowValue(element: Element): Uint8Array {
  const value = soleValue(element);
  const known = element.key.length === LAYOUT.egress_key.bytes && value.length === LAYOUT.egress_value.bytes;
  if (known) return value;
  const message =
    'the pinned flows are of another version of Osmosis; run that one until they are gone, or reboot';
  throw new OsmosisError('DATAPATH', message);
}

export function soleValue({ values: [value] }: Element): Uint8Array {
  if (value === undefined) throw new RangeError('a map element has no value');
  return value;
}
