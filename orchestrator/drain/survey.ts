/** What a drain must know before it plans: the cells of the host, the hosts that may take them, and what each says. */
import { OsmosisError } from '../../agent/error.ts';
import type { AgentClient, CallOptions } from '../agent-client.ts';
import type { Selector } from '../fleet/selector.ts';
import { checkPlan, type Legacy, makePlanOf, type Seen, see } from '../plan.ts';
import type { DrainCell, DrainHost } from './placement.ts';

/** Cells that are looked at at the same time. */
const LOOKS_MAX = 4;

/** A host that cells may go to, and its agent, where that could be reached. */
export type Candidate = {
  readonly name: string;
  readonly agent: AgentClient | undefined;
  /** Why it takes no cells. */
  readonly closed?: string;
};
type Request = CallOptions & {
  readonly select: Selector;
  readonly legacy: Legacy;
  /** Files that a host lacks will be copied. */
  readonly sync: boolean;
};
type Surveyed = { readonly cells: DrainCell[]; readonly hosts: DrainHost[] };

/** @throws OsmosisError where the source can't be asked */
export async function survey(
  source: AgentClient,
  candidates: readonly Candidate[],
  { select, legacy, sync, ...options }: Request,
): Promise<Surveyed> {
  const { cells: all } = await source.call('status', {}, options);
  const chosen = all.filter(({ name, placement }) => select({ name, labels: placement }));
  const hosts = await Promise.all(candidates.map((candidate) => hostOf(candidate, options)));
  const open = candidates.flatMap(({ name, agent }) =>
    agent !== undefined && hosts.some((host) => host.name === name && host.closed === undefined)
      ? [{ name, agent }]
      : [],
  );
  const cells: DrainCell[] = [];
  for (let at = 0; at < chosen.length; at += LOOKS_MAX) {
    const looks = chosen.slice(at, at + LOOKS_MAX).map(async ({ id, name, placement }) => {
      const cell = { id, name, labels: placement };
      const seen = await settled(see(name, source, options));
      if (!(seen instanceof OsmosisError))
        return {
          ...cell,
          imageBytes: seen.snapshot.image_bytes,
          refusals: await refusalsOf(seen, source, open, legacy, { ...options, sync }),
        };
      // It has ended by itself: then there is nothing to move.
      if (seen.code === 'NO_SUCH_TARGET') return undefined;
      const refusals = Object.fromEntries(open.map((host) => [host.name, seen.message]));
      return { ...cell, imageBytes: 0, refusals };
    });
    cells.push(...(await Promise.all(looks)).filter((cell) => cell !== undefined));
  }
  return { cells, hosts };
}

async function hostOf({ name, agent, closed }: Candidate, options: CallOptions): Promise<DrainHost> {
  const nothing = { name, roomBytes: 0, cells: [] };
  if (agent === undefined || closed !== undefined)
    return { ...nothing, closed: closed ?? 'it was not reached' };
  const status = await settled(agent.call('status', {}, options));
  if (status instanceof OsmosisError) return { ...nothing, closed: status.message };
  const cells = status.cells.map(({ placement }) => ({ labels: placement }));
  const host = { name, roomBytes: status.host.room_bytes, cells };
  return status.cordon === undefined ? host : { ...host, closed: 'it is cordoned' };
}

async function refusalsOf(
  seen: Seen,
  source: AgentClient,
  open: readonly { readonly name: string; readonly agent: AgentClient }[],
  legacy: Legacy,
  options: CallOptions & Pick<Request, 'sync'>,
): Promise<Record<string, string>> {
  const refusals = await Promise.all(
    open.map(async ({ name, agent }): Promise<[string, string][]> => {
      const checked = await settled(
        makePlanOf(seen, source, agent, options).then((plan) => checkPlan(plan, legacy)),
      );
      return checked instanceof OsmosisError ? [[name, checked.message]] : [];
    }),
  );
  return Object.fromEntries(refusals.flat());
}

/** What it is, or how it failed; an interruption goes on. */
async function settled<T>(promise: Promise<T>): Promise<T | OsmosisError> {
  try {
    return await promise;
  } catch (thrown) {
    if (thrown instanceof OsmosisError && thrown.code !== 'INTERRUPTED') return thrown;
    throw thrown;
  }
}
