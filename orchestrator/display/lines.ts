/** The display where there is no terminal: one plain line for each thing that happens, for logs and CI. */
import { PHASES } from '../../agent/phases.ts';
import type { MigrationEvent } from '../events.ts';
import { bytesText, durationText, filesText, rateText } from './format.ts';
import { reduceView, type View, viewOf } from './state.ts';

/** Progress is a line at most this often. */
const PROGRESS_INTERVAL_MS = 5_000;

/** @param write gets each line with its newline */
export function createLines(write: (line: string) => void, now = () => performance.now()) {
  let view = viewOf(PHASES);
  let nextProgressMs = 0;
  return (event: MigrationEvent): void => {
    const nowMs = now();
    view = reduceView(view, event, nowMs);
    if (event.event === 'progress' || event.event === 'files') {
      if (nowMs < nextProgressMs) return;
      nextProgressMs = nowMs + PROGRESS_INTERVAL_MS;
    }
    write(`${eventLine(event, view)}\n`);
  };
}

/** @param view the view after the event */
function eventLine(event: MigrationEvent, view: View): string {
  switch (event.event) {
    case 'phase': {
      if (event.state === 'start') return `${event.phase}: started`;
      const took = view.phases.find(({ phase }) => phase === event.phase)?.ms ?? 0;
      return `${event.phase}: ${event.state === 'done' ? 'done in' : 'failed after'} ${durationText(took)}`;
    }
    case 'progress':
      return `image: ${bytesText(event.bytes)} at ${rateText(event.bytes_per_s)}`;
    case 'files':
      return `files: ${filesText(event)}`;
    case 'note':
      return event.level === 'warn' ? `warning: ${event.message}` : event.message;
    case 'blackout':
      return `blackout: ${durationText(event.ms)}`;
  }
}
