/** A drain in tables: what would go where, what became of each cell, how it stands. */
import type { CordonRecord, DrainRow } from '../../agent/control/drain-protocol.ts';
import type { DrainHost, Placements } from '../drain/placement.ts';
import type { DrainEnd } from '../drain/state.ts';
import { bytesText, countText, durationText } from './format.ts';
import { tableLines } from './table.ts';

export function placementText(
  host: string,
  { placed, unplaced }: Placements,
  hosts: readonly DrainHost[],
): string {
  if (placed.length + unplaced.length === 0) return `${host} has no such cells\n`;
  const rows = [
    ...placed.map(({ cell, to, notes }) => [cell.name, to, bytesText(cell.imageBytes), notes.join('; ')]),
    ...unplaced.map(({ cell, why }) => [cell.name, 'NOWHERE', bytesText(cell.imageBytes), reasons(why)]),
  ];
  const closed = hosts.flatMap(({ name, closed: why }) =>
    why === undefined ? [] : [`${name} takes none: ${why}\n`],
  );
  return [...tableLines(['cell', 'to', 'image', ''], rows), ...closed].join('');
}

type Row = DrainRow & { readonly from: string };

const ENDS: Record<DrainEnd, (host: string, left: string) => string> = {
  done: (host) => `${host} is drained, and stays cordoned: osmosis uncordon ${host}`,
  left: (host, left) => `${left} left on ${host}: mend what the table says, and run it again`,
  deadline: (host, left) => `the deadline has passed with ${left} left on ${host}: run it again`,
  stopped: (host, left) => `stopped with ${left} left on ${host}: run it again, it continues`,
  refused: (host, left) =>
    `nothing was moved, ${left} left on ${host}: mend what the table says, and run it again`,
};

export function drainText(host: string, end: DrainEnd, rows: readonly Row[]): string {
  const left = rows.filter(({ state }) => state === 'left' || state === 'waiting').length;
  return [...rowLines(rows), `${ENDS[end](host, countText(left, 'cell'))}\n`].join('');
}

function rowLines(rows: readonly Row[]): string[] {
  return tableLines(
    ['cell', 'from', 'to', 'flows kept', 'blackout', 'gap', ''],
    rows.map(({ cell, from, to, state, flows, blackout_ms, gap_ms, code, message }) => [
      cell,
      from,
      state === 'moved' || state === 'moving' ? (to ?? '') : '-',
      flows === undefined
        ? '-'
        : `${flows.moved + flows.relayed} of ${flows.moved + flows.relayed + flows.lost}`,
      blackout_ms === undefined ? '-' : durationText(blackout_ms),
      gap_ms === undefined ? '-' : durationText(gap_ms),
      [state === 'moved' ? '' : state, code, message].filter(Boolean).join(' '),
    ]),
  );
}

/** `--status` */
export function recordText(host: string, cordon: CordonRecord | undefined, cells: readonly string[]): string {
  const here =
    cells.length === 0
      ? 'no cells are there'
      : `${countText(cells.length, 'cell')} there: ${cells.join(', ')}`;
  if (cordon === undefined) return `${host} is not cordoned; ${here}\n`;
  const since = new Date(cordon.since).toISOString();
  const why = cordon.reason === undefined ? '' : ` (${cordon.reason})`;
  const lines = [`${host} is cordoned since ${since}${why}; ${here}\n`];
  if (cordon.drain === undefined) return lines.join('');
  const { by, state, started, updated, cells: rows } = cordon.drain;
  lines.push(
    `drain by ${by}: ${state}, begun ${new Date(started).toISOString()}, last heard of ${new Date(updated).toISOString()}\n`,
    ...rowLines(rows.map((row) => ({ ...row, from: host }))),
  );
  return lines.join('');
}

function reasons(why: Readonly<Record<string, string>>): string {
  return Object.entries(why)
    .map(([host, reason]) => `${host}: ${reason}`)
    .join('; ');
}
