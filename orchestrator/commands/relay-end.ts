/** `osmosis relay end` */
import { setTimeout as sleep } from 'node:timers/promises';
import type { RelayFact, Result } from '../../agent/control/protocol.ts';
import { OsmosisError } from '../../agent/error.ts';
import type { AgentClient } from '../agent-client.ts';
import { type HostOptions, printJson, withHosts } from './hosts.ts';

/** The resets of the cells' hosts are given this long to pass the relays, before those go. */
const RESETS_MS = 300;
/** As much of an id as `osmosis ps` shows. */
const ID_DIGITS_MIN = 8;

export type RelayEndOptions = HostOptions & {
  readonly cell?: string;
  readonly dryRun: boolean;
  readonly json?: boolean;
};

/** What one host had a part in. */
export type Ended = {
  readonly host: string;
  /** Of its cells: both ends have been told. */
  readonly sockets: readonly RelayFact[];
  /** Of those that it relayed: either end is told when it next says something. */
  readonly entries: readonly RelayFact[];
};

type Status = Result<'status'>;

export async function runRelayEnd(names: readonly string[], options: RelayEndOptions): Promise<void> {
  const { dryRun, json = false } = options;
  await withHosts(options, async (hosts, signal) => {
    const connections = await Promise.all(names.map((name) => hosts.connect(name)));
    const agents = await Promise.all(connections.map((connection) => hosts.agent(connection)));
    const statuses = await Promise.all(agents.map((agent) => agent.call('status', {}, { signal })));
    const cell = options.cell === undefined ? {} : { cell: idOf(options.cell, statuses) };
    const end = (agent: AgentClient, what: 'sockets' | 'entries') =>
      agent.call('relay.end', { ...cell, what, dry_run: dryRun }, { signal });
    const sockets = await Promise.all(agents.map((agent) => end(agent, 'sockets')));
    if (!dryRun && sockets.some(({ ended }) => ended.length > 0)) await sleep(RESETS_MS);
    const entries = await Promise.all(agents.map((agent) => end(agent, 'entries')));
    const results = connections.map(
      ({ name }, index): Ended => ({
        host: name,
        sockets: sockets[index]?.ended ?? [],
        entries: entries[index]?.ended ?? [],
      }),
    );
    if (json) printJson({ ok: true, dry_run: dryRun, hosts: results });
    else process.stdout.write(`${results.map((result) => relayEndText(result, dryRun)).join('\n')}\n`);
  });
}

/**
 * The id of the cell with this name, or whose id begins so. A host that relays for a cell knows its id only.
 * @throws OsmosisError NO_SUCH_TARGET
 */
export function idOf(cell: string, statuses: readonly Pick<Status, 'cells' | 'remote_cells'>[]): string {
  const named = statuses.flatMap(({ cells }) => cells).find(({ name }) => name === cell);
  if (named !== undefined) return named.id;
  const known = statuses.flatMap(({ cells, remote_cells }) => [
    ...cells.map(({ id }) => id),
    ...remote_cells.map(({ cell: id }) => id),
  ]);
  const [id, ...others] =
    cell.length < ID_DIGITS_MIN ? [] : [...new Set(known)].filter((each) => each.startsWith(cell));
  if (id !== undefined && others.length === 0) return id;
  throw new OsmosisError(
    'NO_SUCH_TARGET',
    `none of these hosts knows a cell ${cell}; nothing was touched. See osmosis ps: by its name at the host where it is, by its id elsewhere.`,
  );
}

export function relayEndText({ host, sockets, entries }: Ended, dryRun: boolean): string {
  const verb = dryRun ? 'would end' : 'ended';
  const rows = [
    ...sockets.map((fact) => `  ${verb} ${relayText(fact)}: both ends see a reset`),
    ...entries.map(
      (fact) =>
        `  ${verb} the relay of ${relayText(fact)}: an end that has not seen a reset yet sees one with its next packet`,
    ),
  ];
  return [rows.length === 0 ? `${host}: nothing is relayed` : `${host}:`, ...rows].join('\n');
}

function relayText({ cell, peer, flows }: RelayFact): string {
  return `${flows} connections of ${peer} with cell ${cell.slice(0, ID_DIGITS_MIN)}`;
}
