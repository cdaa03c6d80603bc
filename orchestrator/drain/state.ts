/** A drain as it goes on: what each cell's state is, and what is to be done next. Pure; drain.ts acts. */
import type { DrainRow } from '../../agent/control/drain-protocol.ts';
import type { ErrorCode, OsmosisError } from '../../agent/error.ts';
import type { MigrationResult } from '../migrate.ts';
import { type DrainCell, type DrainHost, type Placed, placeCells } from './placement.ts';

/** Moves of one cell that are tried in one drain, whatever their destinations. */
export const TRIES_MAX = 3;

type Outcome = Pick<MigrationResult, 'flows' | 'blackout_ms' | 'gap_ms' | 'unconfirmed'>;
type Failure = { readonly code: ErrorCode; readonly message: string };
export type CellState =
  | { readonly state: 'waiting'; readonly cell: DrainCell; readonly tries: number; readonly last?: Failure }
  | { readonly state: 'moving'; readonly cell: DrainCell; readonly tries: number; readonly to: string }
  | {
      readonly state: 'moved';
      readonly cell: DrainCell;
      readonly to: string;
      readonly outcome?: Outcome;
      readonly failure?: Failure;
    }
  /** It stays where it is. */
  | { readonly state: 'left'; readonly cell: DrainCell; readonly failure: Failure }
  /** Its process has ended by itself, or somebody else has moved it. */
  | { readonly state: 'gone'; readonly cell: DrainCell };

export type DrainState = {
  readonly cells: readonly CellState[];
  /** As they were when the drain began. */
  readonly hosts: readonly DrainHost[];
  /** Moves at the same time. */
  readonly parallel: number;
  /** Why no move begins any more. */
  readonly stopping?: 'deadline' | 'stopped';
};

export type DrainEvent =
  | { readonly event: 'started'; readonly cell: string; readonly to: string }
  | { readonly event: 'moved'; readonly cell: string; readonly outcome: Outcome }
  | { readonly event: 'failed'; readonly cell: string; readonly error: OsmosisError }
  | { readonly event: 'unplaced'; readonly cell: string; readonly why: Readonly<Record<string, string>> }
  | { readonly event: 'stopping'; readonly why: 'deadline' | 'stopped' };

export type Decision = {
  readonly start: readonly Placed[];
  /** For these there is no place, and none can come free. */
  readonly unplaced: readonly { readonly cell: DrainCell; readonly why: Readonly<Record<string, string>> }[];
  readonly ended: boolean;
};

export function beginDrain(
  cells: readonly DrainCell[],
  hosts: readonly DrainHost[],
  parallel: number,
): DrainState {
  return { cells: cells.map((cell) => ({ state: 'waiting', cell, tries: 0 })), hosts, parallel };
}

/** What to do now; nothing of it has been done. */
export function decide(state: DrainState): Decision {
  const moving = state.cells.filter((each) => each.state === 'moving').length;
  const waiting = state.cells.flatMap((each) => (each.state === 'waiting' ? [each.cell] : []));
  if (state.stopping !== undefined) return { start: [], unplaced: [], ended: moving === 0 };
  const { placed, unplaced } = placeCells(waiting, occupied(state));
  const start = placed.slice(0, Math.max(state.parallel - moving, 0));
  // A move that fails gives its room back.
  const isLast = moving === 0;
  return { start, unplaced: isLast ? unplaced : [], ended: isLast && waiting.length === 0 };
}

function occupied({ hosts, cells }: DrainState): DrainHost[] {
  return hosts.map((host) => {
    const there = cells.flatMap((each) =>
      (each.state === 'moving' || each.state === 'moved') && each.to === host.name ? [each.cell] : [],
    );
    const taken = there.reduce((sum, { imageBytes }) => sum + imageBytes, 0);
    return { ...host, roomBytes: host.roomBytes - taken, cells: [...host.cells, ...there] };
  });
}

export function reduceDrain(state: DrainState, event: DrainEvent): DrainState {
  if (event.event === 'stopping') return { ...state, stopping: state.stopping ?? event.why };
  return {
    ...state,
    cells: state.cells.map((each) => (each.cell.name === event.cell ? advance(each, event) : each)),
  };
}

function advance(each: CellState, event: Exclude<DrainEvent, { readonly event: 'stopping' }>): CellState {
  const { cell } = each;
  switch (event.event) {
    case 'started':
      return { state: 'moving', cell, tries: each.state === 'waiting' ? each.tries + 1 : 1, to: event.to };
    case 'moved':
      return each.state === 'moving' ? { state: 'moved', cell, to: each.to, outcome: event.outcome } : each;
    case 'failed':
      return each.state === 'moving' ? failed(each, event.error) : each;
    case 'unplaced':
      return each.state === 'waiting' ? { state: 'left', cell, failure: noPlace(each, event.why) } : each;
  }
}

type After = 'elsewhere' | 'again' | 'leave' | 'gone';

/** What a move's failure says of the next try. */
const AFTER: Record<ErrorCode, After> = {
  // About the destination, or the way there.
  SYNC_CHANGED: 'elsewhere',
  SYNC_FAILED: 'elsewhere',
  SSH_UNREACHABLE: 'elsewhere',
  SSH_AUTH: 'elsewhere',
  SSH_HOST_KEY: 'elsewhere',
  SSH_CONFIG: 'elsewhere',
  AGENT_UNREACHABLE: 'elsewhere',
  AGENT_PROTOCOL: 'elsewhere',
  TIMEOUT: 'elsewhere',
  SAME_HOST: 'elsewhere',
  PREFLIGHT: 'elsewhere',
  NO_ROOM: 'elsewhere',
  LABELS_EXHAUSTED: 'elsewhere',
  HOST_CORDONED: 'elsewhere',
  HOST_UNFIT: 'elsewhere',
  HOST_IN_USE: 'elsewhere',
  INSTALL: 'elsewhere',
  RESTORE_FAILED: 'elsewhere',
  IMAGE_CORRUPT: 'elsewhere',
  ABORTED: 'elsewhere',
  DATAPATH: 'elsewhere',
  CELL: 'elsewhere',
  INTERNAL: 'elsewhere',
  // About the moment.
  FLOWS_CHANGED: 'again',
  PEER_SILENT: 'again',
  BUSY: 'again',
  // About the cell: it would be the same anywhere.
  DUMP_FAILED: 'leave',
  LEGACY_PEERS: 'leave',
  PEER_UNTRUSTED: 'leave',
  NO_TERMINAL: 'leave',
  INTERRUPTED: 'leave',
  UNCONFIRMED: 'leave',
  USAGE: 'leave',
  FLEET_FILE: 'leave',
  IMAGE_KEY: 'leave',
  IMAGE_FORMAT: 'leave',
  IMAGE_USED: 'leave',
  IMAGE_STALE: 'leave',
  IMAGE_FILE: 'leave',
  DRAIN_LEFT: 'leave',
  DRAIN_DEADLINE: 'leave',
  DRAIN_REFUSED: 'leave',
  TARGET_EXITED: 'gone',
  NO_SUCH_TARGET: 'gone',
};

function failed(each: CellState & { state: 'moving' }, error: OsmosisError): CellState {
  const { cell, tries, to } = each;
  const failure = { code: error.code, message: error.message };
  // After commit it is the destination's, whatever failed then.
  if (error.owner === 'destination') return { state: 'moved', cell, to, failure };
  const after = AFTER[error.code];
  if (after === 'gone') return { state: 'gone', cell };
  if (after === 'leave' || tries >= TRIES_MAX) return { state: 'left', cell, failure };
  const refusals = after === 'again' ? cell.refusals : { ...cell.refusals, [to]: error.message };
  return { state: 'waiting', cell: { ...cell, refusals }, tries, last: failure };
}

function noPlace({ last }: CellState & { state: 'waiting' }, why: Readonly<Record<string, string>>): Failure {
  const reasons = Object.entries(why).map(([host, reason]) => `${host}: ${reason}`);
  const message = reasons.length === 0 ? 'there is no other host' : reasons.join('; ');
  return { code: last?.code ?? 'DRAIN_LEFT', message };
}

/** How it stands, for people and `--json`. */
export function drainRows({ cells }: DrainState): DrainRow[] {
  return cells.map(rowOf);
}

function rowOf(each: CellState): DrainRow {
  const row = { cell: each.cell.name, state: each.state };
  switch (each.state) {
    case 'waiting':
      return { ...row, ...each.last };
    case 'moving':
      return { ...row, to: each.to };
    case 'moved':
      return { ...row, to: each.to, ...each.failure, ...figures(each.outcome) };
    case 'left':
      return { ...row, ...each.failure };
    case 'gone':
      return row;
  }
}

function figures(outcome: Outcome | undefined): Partial<DrainRow> {
  if (outcome === undefined) return {};
  const { flows, blackout_ms, gap_ms, unconfirmed } = outcome;
  const silent = { code: 'UNCONFIRMED', message: `${unconfirmed.join(', ')} has not acknowledged yet` };
  return { flows, blackout_ms, gap_ms, ...(unconfirmed.length === 0 ? {} : silent) };
}

/** Named by how it ended. */
export type DrainEnd = 'done' | 'left' | 'deadline' | 'stopped' | 'refused';

export function drainEnd({ cells, stopping }: DrainState): DrainEnd {
  const remaining = cells.filter(({ state }) => state === 'left' || state === 'waiting');
  if (remaining.length === 0) return 'done';
  if (stopping !== undefined) return stopping;
  return cells.some(({ state }) => state === 'moved') ? 'left' : 'refused';
}
