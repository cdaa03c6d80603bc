/** Shows a migration: live on a terminal, as lines elsewhere, not at all where the result is to be JSON. */
import { messageOf } from '../../agent/error.ts';
import type { Phase } from '../../agent/phases.ts';
import type { MigrationEvent } from '../events.ts';
import { createLines } from './lines.ts';
import type { Live } from './live.ts';
import { reduceView, viewOf } from './state.ts';

export type Display = {
  emit(event: MigrationEvent): void;
  /** Draws the last state and gives the terminal back. To be called once, before anything else is printed. */
  stop(): Promise<void>;
};

export type DisplayOptions = {
  /** Standard error: standard output is for the result. */
  readonly stream: NodeJS.WriteStream;
  readonly isTTY: boolean;
  readonly json: boolean;
  /** Those that there will be; all without. */
  readonly phases?: readonly Phase[];
};

export function startDisplay({ stream, isTTY, json, phases }: DisplayOptions): Display {
  if (json) return { emit: () => {}, stop: async () => {} };
  return isTTY && process.env.TERM !== 'dumb' ? startLiveDisplay(stream, phases) : startLineDisplay(stream);
}

/** Shows on standard error what `run` tells, until it has ended, well or not. */
export async function displayed<T>(
  { json, phases }: Pick<DisplayOptions, 'json' | 'phases'>,
  run: (emit: Display['emit']) => Promise<T>,
): Promise<T> {
  const { stderr } = process;
  const options = { stream: stderr, isTTY: stderr.isTTY, json };
  const display = startDisplay(phases === undefined ? options : { ...options, phases });
  try {
    return await run((event) => display.emit(event));
  } finally {
    await display.stop();
  }
}

function startLineDisplay(stream: NodeJS.WriteStream): Display {
  return { emit: createLines((line) => void stream.write(line)), stop: async () => {} };
}

function startLiveDisplay(stream: NodeJS.WriteStream, phases?: readonly Phase[]): Display {
  let view = viewOf(phases);
  let live: Live | undefined;
  // Events that come while the modules load are in the view already when the first picture is drawn.
  const starting = import('./live.ts')
    .then(({ startLive }) => {
      live = startLive(stream, view);
    })
    // A migration goes on without its picture.
    .catch((error: unknown) => void stream.write(`no live display: ${messageOf(error)}\n`));
  return {
    emit: (event) => {
      view = reduceView(view, event, performance.now());
      live?.update(view);
    },
    stop: async () => {
      await starting;
      const last = live;
      live = undefined;
      await last?.stop();
    },
  };
}
