/** What is said to bpftool, and how its JSON is read. Pure; batch.ts and datapath.ts run it. bpftool-map(8), -prog(8). */
export const MAPS = [
  'ingress',
  'egress',
  'relays',
  'sides',
  'rooms',
  'listeners',
  'forwards',
  'cells',
  'accepts',
  'follows',
  'ways_out',
  'labels',
  'drawn',
  'spent',
  'watched',
  'seen',
  'counters',
] as const;
export type MapName = (typeof MAPS)[number];

/** `from_cell` is on the host end of a cell's veth, `cell_out`, `cell_in` and `cell_held` are on the devices inside, `from_queue` and `from_room` are on the far ends of a queue and of a room. */
export const PROGRAMS = [
  'from_wire',
  'to_wire',
  'from_cell',
  'cell_out',
  'cell_in',
  'cell_held',
  'from_queue',
  'from_room',
] as const;
export type ProgramName = (typeof PROGRAMS)[number];

/** One element of a map, as `map dump` shows it. Per-CPU maps have `values`. */
export type Element = { readonly key: Uint8Array; readonly values: readonly Uint8Array[] };

/** A filter of class bpf that hangs on some device's tc hook. */
export type Attachment = { readonly device: string; readonly ifindex: number; readonly programId: number };

type JsonBytes = readonly string[];
type JsonElement = {
  readonly key: JsonBytes;
  readonly value?: JsonBytes;
  readonly values?: readonly { readonly value: JsonBytes }[];
};
type JsonAnswers<Output> = readonly { readonly output: Output }[];
type JsonNet = readonly {
  readonly tc: readonly {
    readonly devname: string;
    readonly ifindex: number;
    readonly id?: number;
    readonly prog_id?: number;
  }[];
}[];

export function mapPath(pinDir: string, map: MapName): string {
  return `${pinDir}/maps/${map}`;
}

export function programPath(pinDir: string, program: ProgramName): string {
  return `${pinDir}/programs/${program}`;
}

/** Loads all programs of the object and pins them and their maps. */
export function loadArgv(pinDir: string, objectFile: string): string[] {
  return ['prog', 'loadall', objectFile, `${pinDir}/programs`, 'pinmaps', `${pinDir}/maps`];
}

export function dumpArgv(pinDir: string, map: MapName): string[] {
  return ['-j', 'map', 'dump', 'pinned', mapPath(pinDir, map)];
}

/** One process answers many lines, each with a JSON value: bpftool-batch(8). */
export const ASK_ARGV = ['-j', 'batch', 'file', '-'] as const;

/** A line for ASK_ARGV. */
export function programLine(pinDir: string, program: ProgramName): string {
  return `prog show pinned ${programPath(pinDir, program)}`;
}

/** A line for ASK_ARGV. */
export function dumpLine(pinDir: string, map: MapName): string {
  return `map dump pinned ${mapPath(pinDir, map)}`;
}

export const NET_ARGV = ['-j', 'net', 'show'] as const;

/** A line for `bpftool batch`. It fails where the map is full. */
export function updateLine(pinDir: string, map: MapName, key: Uint8Array, value: Uint8Array): string {
  return `map update pinned ${mapPath(pinDir, map)} key hex ${hex(key)} value hex ${hex(value)}`;
}

/** A line for `bpftool batch`. It fails where there is no such key. */
export function deleteLine(pinDir: string, map: MapName, key: Uint8Array): string {
  return `map delete pinned ${mapPath(pinDir, map)} key hex ${hex(key)}`;
}

export function parseDump(json: string): Element[] {
  return elementsOf(JSON.parse(json));
}

/** Answer to lines of `dumpLine`. */
export function parseDumps(json: string): Element[][] {
  return (JSON.parse(json) as JsonAnswers<readonly JsonElement[]>).map(({ output }) => elementsOf(output));
}

/** Answer to lines of `programLine`. */
export function parseProgramIds(json: string): number[] {
  return (JSON.parse(json) as JsonAnswers<{ readonly id: number }>).map(({ output }) => output.id);
}

/** Answer to NET_ARGV: what hangs on the tc hooks of all devices of the network namespace. */
export function parseAttachments(json: string): Attachment[] {
  return (JSON.parse(json) as JsonNet).flatMap(({ tc }) =>
    tc.map(({ devname, ifindex, id, prog_id }) => ({
      device: devname,
      ifindex,
      programId: prog_id ?? id ?? 0,
    })),
  );
}

const HEX = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, '0'));

function hex(bytes: Uint8Array): string {
  let text = '';
  for (const byte of bytes) text += text === '' ? HEX[byte] : ` ${HEX[byte]}`;
  return text;
}

function elementsOf(elements: readonly JsonElement[]): Element[] {
  return elements.map(({ key, value, values }) => ({
    key: bytesOf(key),
    values: value === undefined ? (values ?? []).map((each) => bytesOf(each.value)) : [bytesOf(value)],
  }));
}

function bytesOf(json: JsonBytes): Uint8Array {
  return Uint8Array.from(json, Number);
}
