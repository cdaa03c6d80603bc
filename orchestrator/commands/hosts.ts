/** Hosts of one command: connected on the way in, closed on the way out. */
import { OsmosisError } from '../../agent/error.ts';
import { AgentClient } from '../agent-client.ts';
import { type Fleet, findHost, loadFleet } from '../fleet/fleet.ts';
import { connectHost, type HostConnection } from '../ssh/host.ts';

export type HostOptions = {
  readonly sshConfig?: string;
  /** The fleet file, where it is not one of the usual. */
  readonly fleet?: string;
};

export class Hosts {
  readonly fleet: Fleet;
  readonly #configFile: string | undefined;
  readonly #signal: AbortSignal;
  readonly #open = new Set<HostConnection>();
  #closed = false;

  constructor({ sshConfig }: HostOptions, fleet: Fleet, signal: AbortSignal) {
    this.fleet = fleet;
    this.#configFile = sshConfig;
    this.#signal = signal;
  }

  /** @param host name of the fleet, `local`, or an ssh:// URL */
  async connect(host: string): Promise<HostConnection> {
    const connection = await connectHost(findHost(this.fleet, host).target, {
      configFile: this.#configFile,
      signal: this.#signal,
    });
    // Another host of this command has failed meanwhile: nobody will use this one, and nobody else would close it.
    if (this.#closed) await connection.close();
    this.#open.add(connection);
    return connection;
  }

  /** One more channel to the agent of `connection`. */
  async agent(connection: HostConnection): Promise<AgentClient> {
    return new AgentClient(connection.name, await connection.openAgent(this.#signal));
  }

  /** Closes one before the others. */
  async release(connection: HostConnection): Promise<void> {
    this.#open.delete(connection);
    await connection.close();
  }

  async close(): Promise<void> {
    this.#closed = true;
    await Promise.all([...this.#open].map((connection) => connection.close()));
  }
}

/** Runs `action` with hosts of its own, closed when it has ended. `signal` ends the connecting. */
export async function usingHosts<T>(
  options: HostOptions,
  fleet: Fleet,
  signal: AbortSignal,
  action: (hosts: Hosts) => Promise<T>,
): Promise<T> {
  const hosts = new Hosts(options, fleet, signal);
  try {
    return await action(hosts);
  } finally {
    await hosts.close();
  }
}

/** Runs `action` with hosts and a signal that SIGINT and SIGTERM fire; a second one is left to the system. */
export async function withHosts<T>(
  options: HostOptions,
  action: (hosts: Hosts, signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const fleet = await loadFleet(options.fleet);
  const interrupt = new AbortController();
  const onSignal = () => interrupt.abort(interrupted());
  process.once('SIGINT', onSignal);
  process.once('SIGTERM', onSignal);
  const hosts = new Hosts(options, fleet, interrupt.signal);
  try {
    return await action(hosts, interrupt.signal);
  } catch (thrown) {
    throw interrupt.signal.aborted && isAbort(thrown) ? interrupted(thrown) : thrown;
  } finally {
    interrupt.abort(interrupted());
    process.off('SIGINT', onSignal);
    process.off('SIGTERM', onSignal);
    await hosts.close();
  }
}

/** What a signal of a command is aborted with. */
export function interrupted(cause?: unknown): OsmosisError {
  return new OsmosisError('INTERRUPTED', 'interrupted', { cause });
}

/** As Node's own functions end where their signal has fired. */
function isAbort(thrown: unknown): boolean {
  return thrown instanceof Error && thrown.name === 'AbortError';
}

export function printJson(value: unknown): void {
  process.stdout.write(`${JSON.stringify(value)}\n`);
}
