/** What a cell can be published at: when it arrives at this host, and while it is here. */
import { endpointKey } from '../address.ts';
import { CELL_SOURCES } from '../cell/namespaces.ts';
import { placeOf } from '../cell/openings.ts';
import { type Publication, type Published, type PublishSpec, publicationsOf } from '../cell/publication.ts';
import type { Cell } from '../cell/registry.ts';
import type { AgentContext } from '../context.ts';
import type { Check, Params, Result, Snapshot } from '../control/protocol.ts';
import { OsmosisError } from '../error.ts';
import { ownAddresses } from '../host/routes.ts';
import { inspectTree } from '../proc/inspect.ts';
import { inetSockets } from '../proc/sockets.ts';

type PublishableCell = { readonly listeners: Snapshot['listeners']; readonly addresses: readonly string[] };

export async function arrivingPublications(
  specs: readonly PublishSpec[],
  { listeners, addresses }: PublishableCell,
  home: boolean,
): Promise<Published> {
  if (specs.length === 0) return { publications: [], problems: [] };
  if (home) {
    const why =
      "it comes home, where it uses the host's own network and is reachable at its own ports anyway";
    return { publications: [], problems: [`${why}: leave --publish out`] };
  }
  return publicationsOf(specs, await factsOf({ listeners, addresses }));
}

export function publishChecks({ problems }: Published): Check[] {
  return problems.map((message) => ({ name: 'publish', ok: false, message }));
}

async function factsOf({ listeners, addresses }: PublishableCell) {
  const bound = inetSockets('self').filter(({ state, remote }) => state === 'listen' || remote.port === 0);
  return {
    listeners,
    addresses: [...addresses, ...Object.values(CELL_SOURCES)],
    own: await ownAddresses(),
    bound: bound.map(({ protocol, local }) => ({ protocol, ...local })),
  };
}

/**
 * `osmosis publish`: adds endpoints, or ends some.
 * @throws OsmosisError NO_SUCH_TARGET, BUSY; PREFLIGHT with all that is in the way: nothing is changed then.
 */
export async function changePublished(
  { registry, openings }: AgentContext,
  { target, specs, end, dry_run }: Params<'publish'>,
): Promise<Result<'publish'>> {
  const cell = registry.resolve(target);
  registry.checkFree(cell.id);
  const place = placeOf(cell);
  if (place === undefined)
    throw refused(`${cell.name} uses its host's own network and is reachable at its own ports anyway`);
  const published = cell.published ?? [];
  const { changed, problems } = end ? ending(specs, published) : await adding(specs, cell);
  if (problems.length > 0) throw refused(problems.join('; '));
  const keys = new Set(changed.map(({ protocol, wire }) => endpointKey(protocol, wire)));
  const after = (before: readonly Publication[]) => {
    const rest = before.filter((each) => !keys.has(endpointKey(each.protocol, each.wire)));
    return end ? rest : [...rest, ...changed];
  };
  if (!dry_run) {
    // A look at its listeners takes its time.
    registry.checkFree(cell.id);
    if (end) await openings.unpublish(changed);
    else await openings.publish(place, changed);
    const now = registry.get(cell.id);
    if (now === undefined) {
      await openings.unpublish(changed);
      throw new OsmosisError(
        'NO_SUCH_TARGET',
        `the cell ${cell.name} has ended meanwhile; nothing is published`,
      );
    }
    registry.put({ ...now, published: after(now.published ?? []) });
  }
  return { cell: cell.name, changed: [...changed], published: after(published) };
}

type Change = { readonly changed: readonly Publication[]; readonly problems: readonly string[] };

async function adding(specs: readonly PublishSpec[], cell: Cell): Promise<Change> {
  const { listeners } = await inspectTree(cell.pid, { options: false });
  const { publications, problems } = publicationsOf(
    specs,
    await factsOf({ listeners, addresses: cell.addresses }),
  );
  return { changed: publications, problems };
}

function ending(specs: readonly PublishSpec[], published: readonly Publication[]): Change {
  const found = specs.map(({ address, port, listener }) =>
    published.filter(
      ({ wire, local }) =>
        wire.port === port &&
        (address === undefined || wire.address === address) &&
        (listener === undefined || local.port === listener),
    ),
  );
  const problems = specs
    .filter((_, index) => found[index]?.length === 0)
    .map(
      ({ address, port }) =>
        `it is not published at ${address === undefined ? '' : `${address} `}port ${port}`,
    );
  return { changed: [...new Set(found.flat())], problems };
}

function refused(why: string): OsmosisError {
  return new OsmosisError('PREFLIGHT', `${why}. Nothing was changed.`, { phase: 'plan' });
}
