/** Where the cells of a host that is drained are to go: a pure function from what is known to wanted moves. */

/** Of a cell's labels: never two with the same value on one host. */
export const APART = 'anti-affinity';
/** Not on one host if that can be helped. */
export const RATHER_APART = 'prefer-apart';
/** An image and the memory that it is restored into live side by side for a while; agent/host/preflight.ts. */
const ROOM_FACTOR = 2;
const ROOM_SPARE_BYTES = 64 * 1024 * 1024;

type Labels = Readonly<Record<string, string>>;
export type DrainCell = {
  readonly id: string;
  readonly name: string;
  readonly labels: Labels;
  readonly imageBytes: number;
  /** Hosts that can't take it, by name, and why (their preflight, or a move that failed). */
  readonly refusals: Readonly<Record<string, string>>;
};
export type DrainHost = {
  readonly name: string;
  /** Free for images and memory, bytes. */
  readonly roomBytes: number;
  /** Cells that are there or on their way there. */
  readonly cells: readonly { readonly labels: Labels; readonly imageBytes?: number }[];
  /** It takes no cells at all: cordoned, unreachable. */
  readonly closed?: string;
};
export type Placed = { readonly cell: DrainCell; readonly to: string; readonly notes: readonly string[] };
export type Unplaced = { readonly cell: DrainCell; readonly why: Readonly<Record<string, string>> };
export type Placements = { readonly placed: readonly Placed[]; readonly unplaced: readonly Unplaced[] };

/**
 * The largest first, each to the host that then has most room left among those that may take it; where two have the same,
 * to the one with fewer cells, then to the one that was named first. The same input gives the same plan.
 */
export function placeCells(cells: readonly DrainCell[], hosts: readonly DrainHost[]): Placements {
  const state = hosts.map((host) => ({ ...host, cells: [...host.cells] }));
  const placed: Placed[] = [];
  const unplaced: Unplaced[] = [];
  const ordered = cells.toSorted((a, b) => b.imageBytes - a.imageBytes || a.name.localeCompare(b.name));
  for (const cell of ordered) {
    const why = Object.fromEntries(
      state.flatMap((host) => {
        const reason = refusal(cell, host);
        return reason === undefined ? [] : [[host.name, reason]];
      }),
    );
    const fitting = state.filter(({ name }) => why[name] === undefined);
    const best = fitting.toSorted((a, b) => score(cell, a, b))[0];
    if (best === undefined) {
      unplaced.push({ cell, why });
      continue;
    }
    const together = shares(cell, best, RATHER_APART);
    const notes = together ? [`beside another of ${RATHER_APART}=${cell.labels[RATHER_APART]}`] : [];
    placed.push({ cell, to: best.name, notes });
    best.cells.push({ labels: cell.labels, imageBytes: cell.imageBytes });
    best.roomBytes -= cell.imageBytes;
  }
  return { placed, unplaced };
}

function refusal(cell: DrainCell, host: DrainHost): string | undefined {
  if (host.closed !== undefined) return host.closed;
  const known = cell.refusals[host.name];
  if (known !== undefined) return known;
  if (shares(cell, host, APART)) return `another cell of ${APART}=${cell.labels[APART]} is there`;
  const needed = cell.imageBytes * ROOM_FACTOR + ROOM_SPARE_BYTES;
  if (host.roomBytes < needed) return `${mebibytes(host.roomBytes)} free, ${mebibytes(needed)} needed`;
  return undefined;
}

function shares(cell: DrainCell, host: Pick<DrainHost, 'cells'>, label: string): boolean {
  const value = cell.labels[label];
  return value !== undefined && host.cells.some(({ labels }) => labels[label] === value);
}

function score(cell: DrainCell, a: DrainHost, b: DrainHost): number {
  const together = Number(shares(cell, a, RATHER_APART)) - Number(shares(cell, b, RATHER_APART));
  return together || b.roomBytes - a.roomBytes || a.cells.length - b.cells.length;
}

function mebibytes(bytes: number): string {
  return `${Math.ceil(Math.max(bytes, 0) / 1024 / 1024)} MiB`;
}
