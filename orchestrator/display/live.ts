/** The display on a terminal. Loaded only when it is needed: ink and React take a tenth of a second to import. */
import { render } from 'ink';
import { createElement } from 'react';
import type { View } from './state.ts';
import { MigrationView } from './view.ts';

/** How often a running phase's time moves on. */
const TICK_MS = 100;

export type Live = { update(view: View): void; stop(): Promise<void> };

/** Draws in place on `stream` until stop(), which leaves the last picture there. ink restores the cursor on any exit. */
export function startLive(stream: NodeJS.WriteStream, first: View): Live {
  let view = first;
  const isColored = !process.env.NO_COLOR;
  const element = () => createElement(MigrationView, { view, nowMs: performance.now(), isColored });
  // No input is read, so the terminal stays in its own mode and Ctrl-C is the signal that it always is.
  const app = render(element(), {
    stdout: stream,
    stderr: stream,
    exitOnCtrlC: false,
    interactive: true,
    // What is to be said goes through notes; console stays what it is.
    patchConsole: false,
  });
  const draw = () => app.rerender(element());
  const timer = setInterval(draw, TICK_MS);
  // A display keeps no process alive.
  timer.unref();
  return {
    update: (next) => {
      view = next;
      draw();
    },
    stop: async () => {
      clearInterval(timer);
      draw();
      app.unmount();
      await app.waitUntilExit();
    },
  };
}
