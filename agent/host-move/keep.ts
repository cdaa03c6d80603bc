/** `osmosis keep`: whose connections are kept when this host changes its address. */
import type { Cell } from '../cell/registry.ts';
import type { AgentContext } from '../context.ts';
import type { Placement } from '../control/drain-protocol.ts';
import type { KeptCell, Params } from '../control/protocol.ts';
import type { HostMoves } from './host-moves.ts';

/** Without targets everything is listed and nothing changed. @throws OsmosisError NO_SUCH_TARGET, before anything is. */
export async function keep(
  context: AgentContext,
  moves: Pick<HostMoves, 'describe' | 'leave'>,
  { targets, name, placement = {}, end, dry_run, leave = [] }: Params<'keep'>,
): Promise<{ cells: KeptCell[]; untold?: string[] }> {
  const { registry } = context;
  if (leave.length > 0) {
    const untold = dry_run ? [] : await moves.leave(leave, end);
    return { cells: registry.all().map((cell) => describe(cell, moves)), untold };
  }
  if (targets.length === 0) return { cells: registry.all().map((cell) => describe(cell, moves)) };
  const cells = targets.map((target) => registry.resolve(target, targets.length === 1 ? name : undefined));
  for (const { id } of cells) registry.checkFree(id);
  const wanted = (cell: Cell): Cell => ({ ...cell, kept: !end, placement: changed(cell, placement) });
  // As each is by then: those before it may have taken their time.
  if (!dry_run)
    for (const cell of cells) {
      const now = wanted(registry.get(cell.id) ?? cell);
      await (end ? letGo(context, now) : registry.put(now));
    }
  return { cells: cells.map((cell) => describe(wanted(cell), moves)) };
}

/** An empty value takes a label away. */
function changed(cell: Cell, labels: Placement): Placement {
  const all = Object.entries({ ...cell.placement, ...labels });
  return Object.fromEntries(all.filter(([, value]) => value !== ''));
}

/** A process that was only adopted to be kept is an ordinary one again, and its peers forget it. */
async function letGo({ byes, registry }: AgentContext, cell: Cell): Promise<void> {
  if (!registry.isRegistered(cell.id)) return;
  const isOnlyKept = cell.init === undefined && cell.link === undefined && (cell.known ?? []).length === 0;
  if (!isOnlyKept) return registry.put(cell);
  // No migration may begin that would find it gone.
  registry.lock(cell.id);
  try {
    registry.put(cell);
    if (cell.peers.length > 0) await byes.say(cell.id, cell.peers, () => registry.save(cell.id), 'ended');
    registry.remove(cell.id);
  } finally {
    registry.unlock(cell.id);
  }
}

function describe(cell: Cell, moves: Pick<HostMoves, 'describe'>): KeptCell {
  return { cell: cell.name, pid: cell.pid, kept: cell.kept !== false, peers: moves.describe(cell.id) };
}
