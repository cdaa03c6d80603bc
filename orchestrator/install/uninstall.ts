/** Takes Osmosis off a host. */
import { asOsmosisError, OsmosisError } from '../../agent/error.ts';
import { countText } from '../display/format.ts';
import type { Where } from './install.ts';
import { type HostState, Steps } from './steps.ts';

const STATUS_MS_MAX = 10_000;

export type UninstallOptions = {
  /** Although connections end by it. */
  readonly force: boolean;
  readonly keepIdentity: boolean;
  readonly dryRun: boolean;
};

export type Uninstalled = {
  /** Of it, what was there; empty: nothing. */
  readonly releases: readonly string[];
  /** What needs the agent now, for people. */
  readonly uses: readonly string[];
  /** Paths that are still there: wanted, or the operator's own. */
  readonly kept: readonly string[];
  readonly changed: boolean;
};

/** @throws OsmosisError HOST_IN_USE, INSTALL; nothing was touched then */
export async function uninstall(where: Where, options: UninstallOptions): Promise<Uninstalled> {
  const { host, signal } = where;
  const steps = new Steps(host, signal);
  const state = await steps.state();
  const { releases } = state;
  if (state.current === '' && releases.length === 0 && state.foreign.length > 0)
    throw new OsmosisError(
      'INSTALL',
      `${host.name} has ${state.foreign.join(', ')}, which osmosis install has not put there, and nothing else: nothing was touched.`,
    );
  const uses = await usesOf(where, state);
  if (uses.length > 0 && !options.force)
    throw new OsmosisError(
      'HOST_IN_USE',
      `${host.name} is in use: ${uses.join('; ')}. Nothing was touched. osmosis drain it first; or --force, and those connections end.`,
    );
  if (options.dryRun) return { releases, uses, kept: [], changed: releases.length > 0 };
  const kept = await steps.uninstall(options.keepIdentity);
  return { releases, uses, kept, changed: releases.length > 0 };
}

async function usesOf({ hosts, host, signal }: Where, state: HostState): Promise<string[]> {
  if (state.migrations > 0) return ['a cell is just being moved from or to it'];
  try {
    const agent = await hosts.agent(host);
    const { cells, remote_cells } = await agent.call('status', {}, { signal, timeoutMs: STATUS_MS_MAX });
    agent.close();
    const away = remote_cells.filter(({ state: where, flows }) => where !== 'home' && flows > 0);
    const flows = away.reduce((sum, each) => sum + each.flows, 0);
    const relayed = away.flatMap(({ relays }) => relays).reduce((sum, each) => sum + each.flows, 0);
    return [
      ...(cells.length > 0
        ? [`${countText(cells.length, 'cell')} (${cells.map(({ name }) => name).join(', ')})`]
        : []),
      ...(flows > relayed
        ? [`${countText(flows - relayed, 'connection')} of its processes with moved cells`]
        : []),
      ...(relayed > 0
        ? [`${countText(relayed, 'connection')} that it carries on for peers without an agent`]
        : []),
    ];
  } catch (thrown) {
    signal.throwIfAborted();
    const { cells, peers } = state;
    if (cells + peers === 0) return [];
    return [
      `its agent does not answer (${asOsmosisError(thrown).message}), and has written down ${countText(cells, 'cell')} and ${countText(peers, 'record')} of peers`,
    ];
  }
}
