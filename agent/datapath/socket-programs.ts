/**
 * The iterators that read the options of sockets at the source of a move, and set at its destination what CRIU leaves
 * out. Each use loads them (35 ms) into a bpffs of its own and takes them away again; the datapath does without them.
 */
import { mkdir, mkdtemp, readdir, rm, rmdir } from 'node:fs/promises';
import { execa } from 'execa';
import { messageOf } from '../error.ts';
import { SOCKETS_OBJECT_FILE } from './object.ts';
import { runnerIn, toolEnvironment } from './run.ts';
import {
  packKey,
  packOptions,
  parseOutcomes,
  parseRecords,
  type SocketGroup,
  type SocketOutcome,
  type SocketPair,
  type SocketRecord,
} from './socket-layout.ts';

const DIRECTORY = '/run/osmosis';
const PREFIX = 'sockets-';
const TOOL_MS_MAX = 5_000;
/** As much as an Ethernet header and more: what it becomes is longer. */
const PACKET_BYTES = 64;
/** Of the answer of an iterator: 65,536 sockets and more. */
const ANSWER_BYTES_MAX = 64 * 1024 * 1024;

/** A network namespace: that of a process (`self`: this one's), or at a path. */
export type Namespace = number | 'self' | string;

const run = runnerIn(undefined);

/** Every TCP, UDP and raw socket that any process of this host has open. @throws OsmosisError DATAPATH where the kernel can't say. */
export async function readSockets(): Promise<SocketRecord[]> {
  const directory = await load();
  try {
    return parseRecords(await iterate(['cat', `${directory}/programs/read_sockets`]));
  } finally {
    await unload(directory);
  }
}

/** Puts back what CRIU leaves out. Nothing of it fails a migration: what did not work is said to `warn`. */
export class SocketSetter {
  readonly #groups: readonly SocketGroup[];
  readonly #warn: (message: string) => void;
  readonly #loaded: Promise<string | undefined>;
  #applied: Promise<void> | undefined;

  /** Loads the programs and tells them what is wanted, while the process still runs at the source. */
  constructor(groups: readonly SocketGroup[], warn: (message: string) => void) {
    this.#groups = groups;
    this.#warn = warn;
    this.#loaded = groups.length === 0 ? Promise.resolve(undefined) : this.#load();
  }

  /** Once, on the sockets of the network namespace of `pid`; never rejects. */
  apply(pid: number): Promise<void> {
    this.#applied ??= this.#apply(pid);
    return this.#applied;
  }

  /** Takes the programs away where they were not needed. */
  async drop(): Promise<void> {
    this.#applied ??= this.#loaded.then((directory) => {
      if (directory !== undefined) return unload(directory);
    });
    await this.#applied;
  }

  async #load(): Promise<string | undefined> {
    let directory: string | undefined;
    try {
      directory = await load();
      await want(directory, this.#groups);
      return directory;
    } catch (error) {
      this.#warn(`socket options stay as CRIU restores them: ${messageOf(error)}`);
      if (directory !== undefined) await unload(directory);
      return undefined;
    }
  }

  async #apply(pid: number): Promise<void> {
    const directory = await this.#loaded;
    if (directory === undefined) return;
    try {
      const program = `${directory}/programs/set_sockets`;
      const outcomes = await iterate(['nsenter', '--target', String(pid), '--net', '--', 'cat', program]);
      this.#report(parseOutcomes(outcomes));
    } catch (error) {
      this.#warn(`socket options stay as CRIU restored them: ${messageOf(error)}`);
    }
    // The process need not wait for this.
    void unload(directory);
  }

  #report(outcomes: readonly SocketOutcome[]): void {
    const wanted = this.#groups.reduce((sum, { sockets }) => sum + sockets.length, 0);
    if (outcomes.length < wanted)
      this.#warn(`${wanted - outcomes.length} of ${wanted} sockets with options to restore were not found`);
    const failed = outcomes.flatMap((outcome) => outcome.failed);
    for (const [name, all] of Map.groupBy(failed, (one) => one))
      this.#warn(`${name} could not be restored on ${all.length} sockets`);
  }
}

/** What an agent that was killed has left. */
export async function sweepSocketPrograms(): Promise<void> {
  const names = await readdir(DIRECTORY).catch(() => []);
  for (const name of names.filter((one) => one.startsWith(PREFIX))) await unload(`${DIRECTORY}/${name}`);
}

/** The iterators, or the programs of another object; answers with where they are. */
export async function load(object = SOCKETS_OBJECT_FILE): Promise<string> {
  await mkdir(DIRECTORY, { recursive: true, mode: 0o700 });
  const directory = await mkdtemp(`${DIRECTORY}/${PREFIX}`);
  try {
    await run('mount', ['-t', 'bpf', '-o', 'mode=0700', 'bpf', directory]);
    const pins = [`${directory}/programs`, 'pinmaps', `${directory}/maps`];
    const attached = object === SOCKETS_OBJECT_FILE ? ['autoattach'] : [];
    await run('bpftool', ['prog', 'loadall', object, ...pins, ...attached]);
    return directory;
  } catch (error) {
    await unload(directory);
    throw error;
  }
}

/** Tells the programs what to set. */
export async function want(directory: string, groups: readonly SocketGroup[]): Promise<void> {
  const elements = groups.flatMap(({ options, sockets }) => {
    const value = packOptions(options);
    return sockets.map((pair) => [pair, value] as const);
  });
  await enter(`${directory}/maps/wanted`, elements);
}

/** Into a pinned map that is looked up by sockets. */
export async function enter(
  map: string,
  elements: readonly (readonly [pair: SocketPair, value: Buffer])[],
): Promise<void> {
  const line = ([pair, value]: readonly [SocketPair, Buffer]) =>
    `map update pinned ${map} key hex ${hex(packKey(pair))} value hex ${hex(value)}\n`;
  await execa('bpftool', ['batch', 'file', '-'], { ...tool(), input: elements.map(line).join('') });
}

/** Runs a pinned program once, in the namespace that `prefix` enters, on a packet of zeros; answers with what it returned. */
export async function runOnce(prefix: readonly string[], program: string): Promise<number> {
  const [file = '', ...argv] = [...prefix, 'bpftool', '-j', 'prog', 'run', 'pinned', program, 'data_in', '-'];
  const { stdout } = await execa(file, argv, { ...tool(), input: Buffer.alloc(PACKET_BYTES) });
  return (JSON.parse(stdout) as { readonly retval: number }).retval;
}

/** Pins first: a cell that was made meanwhile has a copy of the mount. */
export async function unload(directory: string): Promise<void> {
  for (const name of ['programs', 'maps'])
    await rm(`${directory}/${name}`, { recursive: true, force: true }).catch(() => undefined);
  await execa('umount', [directory], { ...tool(), reject: false });
  await rmdir(directory).catch(() => undefined);
}

export async function iterate([file = '', ...argv]: readonly string[]): Promise<Buffer> {
  const { stdout } = await execa(file, argv, { ...tool(), encoding: 'buffer', maxBuffer: ANSWER_BYTES_MAX });
  return Buffer.from(stdout);
}

function tool() {
  return { env: toolEnvironment(), timeout: TOOL_MS_MAX } as const;
}

function hex(bytes: Buffer): string {
  return bytes.toString('hex').replace(/../g, '$& ').trimEnd();
}

/** What a command is to begin with, to run there. */
export function inNetwork(namespace: Namespace): string[] {
  if (namespace === 'self') return [];
  return typeof namespace === 'number'
    ? ['nsenter', '--target', String(namespace), '--net', '--']
    : ['nsenter', `--net=${namespace}`, '--'];
}
