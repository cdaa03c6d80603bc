/** After a restart of the agent: what its predecessor had begun at a source is finished or undone. */
import { setTimeout as sleep } from 'node:timers/promises';
import { takeDown } from '../cell/take-down.ts';
import { type AgentContext, decisionDirectory } from '../context.ts';
import type { PeerSession } from '../control/protocol.ts';
import { Decision, type Verdict } from '../criu/decision.ts';
import { acceptOf } from '../datapath/model.ts';
import { messageOf } from '../error.ts';
import { isAlive } from '../proc/tree.ts';
import { Holding } from './holding.ts';
import { flowIds } from './placed.ts';
import type { SourceRecord } from './source.ts';

const LOOK_EVERY_MS = 20;

/** How far it goes: `release_ms`, what CRIU's copy has to end; `forget`, takes the record away; `stop`, the agent stops. */
type Bounds = {
  readonly release_ms: number;
  readonly forget: () => void;
  readonly stop: AbortSignal;
};

/** Undecided is aborted now; CRIU's hook sees it and lets the process go on. */
export async function recoverSource(
  context: AgentContext,
  record: SourceRecord,
  bounds: Bounds,
): Promise<void> {
  const { migration: id, cell, holds } = record;
  const verdict = new Decision(decisionDirectory(context), id).decide('abort');
  context.log.warn(
    { role: 'source', cell: cell.name, verdict, cell_id: cell.id, migration: id },
    'found a migration of the last agent',
  );
  const kind = holds === undefined ? 'move' : 'suspend';
  const begun = { cell: cell.name, cell_id: cell.id, kind, recovered: true } as const;
  context.journal.begin('source', id, begun);
  if (verdict === 'commit' && holds !== undefined) void recoverHeld(context, record, holds, bounds);
  else await clear(context, record, verdict, bounds);
}

/** Its peers have to hold it before the fence goes. */
async function recoverHeld(
  context: AgentContext,
  record: SourceRecord,
  holds: readonly PeerSession[],
  bounds: Bounds,
): Promise<void> {
  const { registry, socket, log } = context;
  const { migration, cell } = record;
  registry.lock(cell.id);
  try {
    await new Holding(socket, holds).run(bounds.stop);
    if (bounds.stop.aborted) return;
    await clear(context, record, 'commit', bounds);
    if (record.marked) new Decision(decisionDirectory(context), migration).clear();
  } catch (error) {
    log.error({ migration, error: messageOf(error) }, 'a suspension could not be finished');
  } finally {
    registry.unlock(cell.id);
  }
}

async function clear(
  context: AgentContext,
  record: SourceRecord,
  verdict: Verdict,
  { release_ms, forget }: Bounds,
): Promise<void> {
  const { migration: id, cell, side, flows, listeners } = record;
  const { datapath, peerSide, registry } = context;
  const entered = cell.link === undefined ? flows : cell.flows;
  if (verdict === 'commit') await untilGone(cell.pid, release_ms);
  await datapath.unfenceListeners(listeners);
  await datapath.removeForwards(record.forwards);
  if (verdict === 'commit') {
    await context.openings.close(cell);
    await peerSide.handOver(record.handed ?? []);
    await peerSide.unplace(flowIds(cell, entered));
    await takeDown(context, cell);
    registry.remove(cell.id);
    context.terminals.gone(cell);
  }
  if (cell.link === undefined || verdict === 'commit') {
    await datapath.removeLocals(entered);
    if (verdict === 'abort' && record.before.length > 0) await datapath.putLocals(record.before);
    if (side !== 0) await datapath.removeSide(side);
  } else if (side !== 0) {
    await datapath.putSide({
      id: side,
      state: 'home',
      active: 0,
      accept: acceptOf(0),
      ifindex: cell.link.ifindex,
    });
  }
  await datapath.removeIfEmpty();
  forget();
  context.journal.ended('source', id, verdict === 'commit' ? 'committed' : 'undone');
  if (verdict === 'abort') void tellPeers(context, record);
}

/** Not waited for. */
async function tellPeers({ registry, byes, log }: AgentContext, record: SourceRecord): Promise<void> {
  const { migration, cell, keys } = record;
  // A registered cell's own keys, or their epochs would be used twice.
  const current = registry.get(cell.id)?.peers;
  const told = keys.map((each) => current?.find(({ address }) => address === each.address) ?? each);
  try {
    await byes.say(cell.id, told, () => registry.save(cell.id));
  } catch (error) {
    log.warn({ migration, error: messageOf(error) }, 'its peers could not be told that a cell goes on here');
  }
}

async function untilGone(pid: number, limit_ms: number): Promise<void> {
  for (let waited = 0; waited < limit_ms && isAlive(pid); waited += LOOK_EVERY_MS) await sleep(LOOK_EVERY_MS);
}
