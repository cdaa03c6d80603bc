/** Looks at a host that is to be drained, and plans. */
import type { CordonRecord } from '../../agent/control/drain-protocol.ts';
import { messageOf, OsmosisError } from '../../agent/error.ts';
import type { AgentClient } from '../agent-client.ts';
import type { Selector } from '../fleet/selector.ts';
import type { Legacy } from '../plan.ts';
import { type DrainCell, type DrainHost, type Placements, placeCells } from './placement.ts';
import { type Candidate, survey } from './survey.ts';

/** A drain whose record is older than this has lost whoever drove it. */
const STALE_MS = 45_000;

export type DrainRequest = {
  readonly host: string;
  /** Hosts that cells may go to. */
  readonly to: readonly string[];
  readonly select: Selector;
  readonly legacy: Legacy;
  /** Files that a host lacks are no reason against it: they will be copied. */
  readonly sync?: boolean | undefined;
  /** Cordons the host before it looks, for this reason; undefined: nothing is touched. */
  readonly cordon?: string | undefined;
  readonly connect: (host: string) => Promise<AgentClient>;
  readonly signal: AbortSignal;
};
export type PlannedDrain = {
  /** The agent of the host. */
  readonly source: AgentClient;
  readonly cells: readonly DrainCell[];
  readonly hosts: readonly DrainHost[];
  readonly placements: Placements;
};

/** @throws OsmosisError BUSY where somebody else drains it, and whatever keeps the host from being asked */
export async function planDrain({
  host,
  to,
  select,
  legacy,
  sync = false,
  cordon,
  connect,
  signal,
}: DrainRequest): Promise<PlannedDrain> {
  const source = await connect(host);
  const status = await source.call('status', {}, { signal });
  refuseSecond(host, status.cordon);
  const candidates = await reach(to, connect, status.host.machine_id, signal);
  if (cordon !== undefined) await source.call('cordon', { dry_run: false, reason: cordon }, { signal });
  const { cells, hosts } = await survey(source, candidates, { select, legacy, sync, signal });
  return { source, cells, hosts, placements: placeCells(cells, hosts) };
}

function refuseSecond(host: string, cordon: CordonRecord | undefined): void {
  const { state, updated, by } = cordon?.drain ?? {};
  if (state !== 'running' || updated === undefined || Date.now() - updated > STALE_MS) return;
  throw new OsmosisError(
    'BUSY',
    `${host} is being drained already by ${by}, seen ${new Date(updated).toISOString()}; nothing was touched. See osmosis drain --status ${host}.`,
    { phase: 'plan' },
  );
}

/** One that can't be reached takes nothing, and is no reason to stop. The host itself is left out. */
async function reach(
  names: readonly string[],
  connect: DrainRequest['connect'],
  self: string,
  signal: AbortSignal,
): Promise<Candidate[]> {
  const found = await Promise.all(
    names.map(async (name): Promise<Candidate | undefined> => {
      try {
        const agent = await connect(name);
        const { host } = await agent.call('status', {}, { signal });
        return host.machine_id === self ? undefined : { name, agent };
      } catch (thrown) {
        if (signal.aborted) throw thrown;
        return { name, agent: undefined, closed: messageOf(thrown) };
      }
    }),
  );
  return found.filter((candidate) => candidate !== undefined);
}
