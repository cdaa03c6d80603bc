/** What a display shows, as a pure function of the events so far. */
import { type Phase, USUAL_PHASES } from '../../agent/phases.ts';
import type { MigrationEvent } from '../events.ts';

export type PhaseView = {
  readonly phase: Phase;
  readonly status: 'waiting' | 'running' | 'done' | 'failed';
  /** Clock reading at the start; undefined before it. */
  readonly startedMs?: number;
  /** How long it took; undefined before its end. */
  readonly ms?: number;
};
export type Note = { readonly level: 'info' | 'warn'; readonly message: string };
export type View = {
  readonly phases: readonly PhaseView[];
  readonly bytes: number;
  readonly bytesPerSecond: number;
  /** Of the files, while they are copied. */
  readonly files?: {
    readonly bytes: number;
    readonly bytes_per_s: number;
    readonly total_bytes?: number;
  };
  readonly blackoutMs?: number;
  /** In order, only ever added to. */
  readonly notes: readonly Note[];
};

export function viewOf(phases: readonly Phase[] = USUAL_PHASES): View {
  return {
    phases: phases.map((phase) => ({ phase, status: 'waiting' })),
    bytes: 0,
    bytesPerSecond: 0,
    notes: [],
  };
}

/** @param nowMs a clock that only rises, e.g. performance.now() */
export function reduceView(view: View, event: MigrationEvent, nowMs: number): View {
  switch (event.event) {
    case 'phase':
      return {
        ...view,
        phases: view.phases.map((row) => (row.phase === event.phase ? advance(row, event, nowMs) : row)),
      };
    case 'progress':
      return { ...view, bytes: event.bytes, bytesPerSecond: event.bytes_per_s };
    case 'files': {
      const { event: _name, ...files } = event;
      return { ...view, files };
    }
    case 'note':
      return { ...view, notes: [...view.notes, { level: event.level, message: event.message }] };
    case 'blackout':
      return { ...view, blackoutMs: event.ms };
  }
}

function advance(row: PhaseView, event: MigrationEvent & { event: 'phase' }, nowMs: number): PhaseView {
  if (event.state === 'start') return { phase: row.phase, status: 'running', startedMs: nowMs };
  const ms = event.ms ?? nowMs - (row.startedMs ?? nowMs);
  return { ...row, status: event.state, ms };
}

/** Milliseconds that a phase took or has been taking; undefined before its start. */
export function elapsedMs(row: PhaseView, nowMs: number): number | undefined {
  if (row.ms !== undefined) return row.ms;
  return row.startedMs === undefined ? undefined : nowMs - row.startedMs;
}
