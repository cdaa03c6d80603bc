/** Connections of this host's cells whose peers have no agent and are relayed for by another host: ended here, at once. */
import { execa } from 'execa';
import type { RelayFact } from '../control/protocol.ts';
import { insideArgv } from '../criu/argv.ts';
import type { Cell, CellFlow, Registry } from './registry.ts';

/** Connections that one ss(8) is told to end. */
const FLOWS_MAX = 64;
const KILL_MS_MAX = 5_000;

/**
 * Ends the relayed TCP connections of the cell with this id, or of all cells: process and peer see a reset. Answers with
 * what there was. @throws OsmosisError BUSY where such a cell is being moved.
 */
export async function endRelayedSockets(
  registry: Registry,
  id: string | undefined,
  dryRun: boolean,
): Promise<RelayFact[]> {
  const ended: RelayFact[] = [];
  for (const cell of registry.all()) {
    if (id !== undefined && cell.id !== id) continue;
    const relayed = cell.flows.filter((flow) => flow.relayed);
    if (relayed.length === 0) continue;
    registry.checkFree(cell.id);
    const byPeer = Map.groupBy(relayed, ({ remote }) => remote.address);
    for (const [peer, flows] of byPeer) ended.push({ cell: cell.id, peer, flows: flows.length });
    if (!dryRun) await kill(cell, relayed);
  }
  return ended;
}

async function kill({ init, link }: Cell, flows: readonly CellFlow[]): Promise<void> {
  if (init === undefined) return;
  const connections = flows.filter(({ protocol }) => protocol === 'tcp');
  for (let at = 0; at < connections.length; at += FLOWS_MAX) {
    const filter = connections
      .slice(at, at + FLOWS_MAX)
      .flatMap(filterOf)
      .slice(1);
    const argv = insideArgv({ init: init.pid, net: link !== undefined }, [
      'ss',
      '--kill',
      '--tcp',
      '--no-header',
      ...filter,
    ]);
    await execa(argv[0] ?? '', argv.slice(1), { reject: false, timeout: KILL_MS_MAX });
  }
}

/** In the words of ss(8), with an "or" before it. */
function filterOf({ local, remote }: CellFlow): string[] {
  const sockets = ['src', hostOf(local.address), 'and', 'sport', '=', `:${local.port}`];
  const peers = ['dst', hostOf(remote.address), 'and', 'dport', '=', `:${remote.port}`];
  return ['or', '(', ...sockets, 'and', ...peers, ')'];
}

function hostOf(address: string): string {
  return address.includes(':') ? `[${address}]` : address;
}
