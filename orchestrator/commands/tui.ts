/** `osmosis tui`, and `osmosis` alone on a terminal. */
import { render } from 'ink';
import { createElement } from 'react';
import { OsmosisError } from '../../agent/error.ts';
import { loadFleet } from '../fleet/fleet.ts';
import { App } from '../tui/app.ts';
import { firstModel } from '../tui/model.ts';
import { isBusy, type TuiEvent, update } from '../tui/update.ts';
import { type HostOptions, Hosts } from './hosts.ts';
import { Effects } from './tui-effects.ts';
import { poll } from './tui-poll.ts';

/** Between two pictures while something is under way. */
const TICK_MS = 100;

export async function runTui(named: readonly string[], options: HostOptions): Promise<void> {
  if (!process.stdin.isTTY || !process.stdout.isTTY)
    throw new OsmosisError('USAGE', 'osmosis tui needs a terminal; see osmosis --help for the commands');
  const fleet = await loadFleet(options.fleet);
  const names = named.length > 0 ? named : fleet.hosts.map(({ name }) => name);
  const end = new AbortController();
  const hosts = new Hosts(options, fleet, end.signal);
  let model = firstModel(names.length > 0 ? names : ['local']);
  const isColored = !process.env.NO_COLOR;
  const tell = (event: TuiEvent) => {
    const updated = update(model, event);
    model = updated.model;
    draw();
    for (const effect of updated.effects) effects.run(effect);
  };
  const element = () =>
    createElement(App, {
      model,
      nowMs: performance.now(),
      isColored,
      onKey: (key) => tell({ event: 'key', key }),
    });
  const effects = new Effects({
    ...{ options, hosts, signal: end.signal, model: () => model, tell },
    quit: () => app.unmount(),
  });
  // In its own mode the terminal sends Ctrl-C as a key; a signal comes from somebody else, and ends the display.
  const app = render(element(), {
    alternateScreen: true,
    exitOnCtrlC: false,
    interactive: true,
    patchConsole: false,
  });
  const draw = () => app.rerender(element());
  const onSignal = () => app.unmount();
  for (const signal of ['SIGTERM', 'SIGHUP'] as const) process.once(signal, onSignal);
  const timer = setInterval(() => {
    if (isBusy(model)) draw();
  }, TICK_MS);
  const polls = model.hosts.map(({ name }) => poll(name, { hosts, model: () => model, tell }, end.signal));
  try {
    await app.waitUntilExit();
  } finally {
    clearInterval(timer);
    for (const signal of ['SIGTERM', 'SIGHUP'] as const) process.off(signal, onSignal);
    end.abort();
    await Promise.all(polls);
    await Promise.all([effects.close(), hosts.close()]);
  }
}
