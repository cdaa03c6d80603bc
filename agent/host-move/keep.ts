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
  const wanted = cells.map((cell) => ({ ...cell, kept: !end, placement: changed(cell, placement) }));
  if (!dry_run) for (const cell of wanted) await (end ? letGo(context, cell) : registry.put(cell));
  return { cells: wanted.map((cell) => describe(cell, moves)) };
}

/** An empty value takes a label away. */
function changed(cell: Cell, labels: Placement): Placement {
  const all = Object.entries({ ...cell.placement, ...labels });
  return Object.fromEntries(all.filter(([, value]) => value !== ''));
}

/** A process that was only adopted to be kept is an ordinary one again, and its peers forget it. */
async function letGo({ byes, registry }: AgentContext, cell: Cell): Promise<void> {
  const isOnlyKept = cell.init === undefined && cell.link === undefined && (cell.known ?? []).length === 0;
  if (registry.isRegistered(cell.id)) registry.put(cell);
  if (!isOnlyKept || !registry.isRegistered(cell.id)) return;
  if (cell.peers.length > 0) await byes.say(cell.id, cell.peers, () => registry.save(cell.id), 'ended');
  registry.remove(cell.id);
}

function describe(cell: Cell, moves: Pick<HostMoves, 'describe'>): KeptCell {
  return { cell: cell.name, pid: cell.pid, kept: cell.kept !== false, peers: moves.describe(cell.id) };
}
