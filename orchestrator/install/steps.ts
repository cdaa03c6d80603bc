/** The steps of host.sh at a host, and what it says of itself. */
import { createReadStream, readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { OsmosisError } from '../../agent/error.ts';
import type { HostConnection } from '../ssh/host.ts';
import type { PackageFile } from './package-file.ts';

const SCRIPT = readFileSync(new URL('host.sh', import.meta.url), 'utf8');
const STEP_MS_MAX = 120_000;
/** A package over a slow line. */
const RECEIVE_MS_MAX = 3_600_000;
/** systemd starts an agent again after a second. */
const AGENT_MS_MAX = 30_000;
/** Different agents in so many looks: each has ended at once. */
const STARTS_MAX = 4;
const POLL_MS = 1_000;

type Step = 'state' | 'receive' | 'activate' | 'end_agent' | 'prune' | 'uninstall';
type Said = readonly { readonly name: string; readonly value: string }[];

/** What of Osmosis is at a host. */
export type HostState = {
  /** What `osmosis` runs there; empty: nothing is installed. */
  readonly current: string;
  readonly releases: readonly string[];
  /** Paths that are in the way and not ours. */
  readonly foreign: readonly string[];
  /** Running agents of installed releases. */
  readonly agents: readonly { readonly pid: number; readonly release: string }[];
  readonly systemd: boolean;
  /** An agent has been there before, and has left who it was. */
  readonly identity: boolean;
  /** What its agent, running or not, remembers. */
  readonly cells: number;
  readonly migrations: number;
  readonly peers: number;
};

export class Steps {
  readonly #host: HostConnection;
  readonly #signal: AbortSignal;

  constructor(host: HostConnection, signal: AbortSignal) {
    this.#host = host;
    this.#signal = signal;
  }

  /** @throws OsmosisError INSTALL, TIMEOUT, INTERRUPTED, SSH_UNREACHABLE */
  async state(): Promise<HostState> {
    return parseState(await this.#run('state', []));
  }

  /** Sends the package and has it unpacked; there is all of it afterwards, or nothing. */
  async receive(file: PackageFile): Promise<void> {
    await this.#run('receive', [file.release, String(file.bytes), file.sha256], file.path);
  }

  async activate(release: string): Promise<void> {
    await this.#run('activate', [release]);
  }

  async endAgent(): Promise<void> {
    await this.#run('end_agent', []);
  }

  async prune(kept: readonly string[]): Promise<void> {
    await this.#run('prune', kept);
  }

  /** @returns what was kept on purpose, or is the operator's own */
  async uninstall(keepIdentity: boolean): Promise<string[]> {
    const said = await this.#run('uninstall', [keepIdentity ? 'identity' : 'nothing']);
    return valuesOf(said, 'kept', 'yours');
  }

  /**
   * How the agent of this release is doing: `runs` once it has lived from one look to the next, `restarts` where it is started
   * again and again, `absent` after AGENT_MS_MAX.
   */
  async settled(release: string): Promise<'runs' | 'restarts' | 'absent'> {
    const seen = new Set<number>();
    let last: number | undefined;
    for (const until = Date.now() + AGENT_MS_MAX; Date.now() < until; ) {
      const pid = (await this.state()).agents.find((agent) => agent.release === release)?.pid;
      if (pid !== undefined && pid === last) return 'runs';
      if (pid !== undefined) seen.add(pid);
      if (seen.size >= STARTS_MAX) return 'restarts';
      last = pid;
      await sleep(POLL_MS, undefined, { signal: this.#signal });
    }
    return seen.size === 0 ? 'absent' : 'restarts';
  }

  async #run(step: Step, args: readonly string[], file?: string): Promise<Said> {
    const argv = ['sh', '-c', SCRIPT, 'osmosis-install', step, ...args];
    const { status, stdout, stderr } = await this.#host.execute(argv, {
      signal: this.#signal,
      timeoutMs: file === undefined ? STEP_MS_MAX : RECEIVE_MS_MAX,
      ...(file === undefined ? {} : { input: () => createReadStream(file) }),
    });
    if (status === 0) return saidBy(stdout);
    const words = stderr.trim().split('\n').slice(-3).join(' ');
    throw new OsmosisError('INSTALL', `${this.#host.name}: ${words || `step ${step} ended with ${status}`}`);
  }
}

export function saidBy(text: string): Said {
  return text.split('\n').flatMap((line) => {
    const space = line.indexOf(' ');
    return space < 0 ? [] : { name: line.slice(0, space), value: line.slice(space + 1) };
  });
}

function valuesOf(said: Said, ...names: readonly string[]): string[] {
  return said.flatMap(({ name, value }) => (names.includes(name) ? value : []));
}

export function parseState(said: Said): HostState {
  return {
    current: valuesOf(said, 'current')[0] ?? '',
    releases: valuesOf(said, 'release'),
    foreign: valuesOf(said, 'foreign'),
    agents: valuesOf(said, 'agent').map((line) => {
      const [pid = '', release = ''] = line.split(' ');
      return { pid: Number(pid), release };
    }),
    systemd: valuesOf(said, 'systemd').length > 0,
    identity: valuesOf(said, 'identity').length > 0,
    cells: valuesOf(said, 'cells').length,
    migrations: valuesOf(said, 'migrations').length,
    peers: valuesOf(said, 'peers').length,
  };
}
