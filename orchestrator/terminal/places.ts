/** Where a cell is: asked of the agents of the hosts that it may be on. */
import type { Destination, TerminalState } from '../../agent/control/terminal-protocol.ts';
import { asOsmosisError, OsmosisError } from '../../agent/error.ts';
import type { AgentClient } from '../agent-client.ts';
import type { Fleet } from '../fleet/fleet.ts';
import type { HostConnection } from '../ssh/host.ts';
import { targetName } from '../ssh/target.ts';
import type { Place } from './session.ts';

const ANSWER_MS_MAX = 15_000;

/** What a command can do with hosts; orchestrator/commands/hosts.ts. */
export type Reach = {
  readonly fleet: Fleet;
  connect(host: string): Promise<HostConnection>;
  agent(connection: HostConnection): Promise<AgentClient>;
  release(connection: HostConnection): Promise<void>;
};

/** A host's answer. */
export type Found = {
  readonly host: string;
  readonly place: Omit<Place, 'cell'>;
  readonly state: TerminalState;
};

/** Connections of one command, by host as it is called; one that has failed is made anew. */
export class Places {
  readonly #reach: Reach;
  readonly #open = new Map<string, Omit<Place, 'cell'>>();

  constructor(reach: Reach) {
    this.#reach = reach;
  }

  async #at(host: string): Promise<Omit<Place, 'cell'>> {
    const known = this.#open.get(host);
    if (known !== undefined) return known;
    const connection = await this.#reach.connect(host);
    try {
      const place = { connection, agent: await this.#reach.agent(connection) };
      this.#open.set(host, place);
      return place;
    } catch (thrown) {
      await this.#reach.release(connection);
      throw thrown;
    }
  }

  /** What the host says of `target`; where it is about to leave, after `wait_ms`. */
  async ask(host: string, target: string, wait_ms: number, signal: AbortSignal): Promise<Found> {
    const { place, isOld } = { isOld: this.#open.has(host), place: await this.#at(host) };
    try {
      const limit = { signal, timeoutMs: wait_ms + ANSWER_MS_MAX };
      return { host, place, state: await place.agent.call('terminal.state', { target, wait_ms }, limit) };
    } catch (thrown) {
      signal.throwIfAborted();
      await this.#reach.release(place.connection);
      this.#open.delete(host);
      // It may only have been lost since: an agent that was restarted answers on a new channel.
      if (isOld) return await this.ask(host, target, wait_ms, signal);
      throw thrown;
    }
  }

  /** Hosts that a cell may be on, those first that fit what its last one has said. */
  candidates(to: Destination | undefined): string[] {
    const { hosts } = this.#reach.fleet;
    const names = new Set(to === undefined ? [] : [to.name, to.hostname]);
    const named = hosts.filter(({ name, target }) => names.has(name) || names.has(targetName(target)));
    const direct = [...names]
      .filter((name) => name !== 'local' && name !== '')
      .map((name) => `ssh://${name}`);
    const all = [...named.map(({ name }) => name), ...direct, 'local', ...hosts.map(({ name }) => name)];
    return [...new Set(all)];
  }

  /** The first of `hosts`, in their order, that knows the cell. */
  async find(hosts: readonly string[], target: string, signal: AbortSignal): Promise<Found | undefined> {
    for (const host of hosts) {
      try {
        const found = await this.ask(host, target, 0, signal);
        if (found.state.state !== 'unknown') return found;
      } catch {
        signal.throwIfAborted();
      }
    }
    return undefined;
  }

  /** By its name or id, among all hosts. @throws OsmosisError NO_SUCH_TARGET, USAGE where several have one of that name */
  async search(target: string, signal: AbortSignal): Promise<Found> {
    const hosts = this.candidates(undefined);
    const answers = await Promise.all(
      hosts.map((host) =>
        this.ask(host, target, 0, signal).catch((thrown: unknown) => asOsmosisError(thrown)),
      ),
    );
    signal.throwIfAborted();
    const found = answers.flatMap((each) =>
      each instanceof OsmosisError || each.state.state === 'unknown' ? [] : [each],
    );
    const here = found.filter(({ state }) => state.state === 'here' || state.state === 'leaving');
    const ids = new Set(here.map(({ state }) => (state.state === 'unknown' ? '' : state.cell)));
    if (ids.size > 1)
      throw new OsmosisError(
        'USAGE',
        `cells called ${target} are on ${here.map(({ host }) => host).join(' and ')}: say which, with --on`,
      );
    const best = here[0] ?? found.find(({ state }) => state.state === 'gone') ?? found[0];
    if (best !== undefined) return best;
    const silent = hosts.filter((_, index) => answers[index] instanceof OsmosisError);
    const asked = hosts.filter((host) => !silent.includes(host));
    throw new OsmosisError(
      'NO_SUCH_TARGET',
      `no cell is called ${target} on ${asked.join(', ') || 'any host'}${silent.length > 0 ? ` (no answer: ${silent.join(', ')})` : ''}; name its host with --on`,
    );
  }
}
