/** What happens to the model, and what is to be done about it: pure. */
import type { OsmosisError } from '../../agent/error.ts';
import { reduceView, type View, viewOf } from '../display/state.ts';
import type { MigrationEvent } from '../events.ts';
import type { KeyName } from './keys.ts';
import {
  type CellRef,
  cellAt,
  destinationsFrom,
  type Effect,
  type HistoryEntry,
  type HostView,
  hostNamed,
  isSame,
  type Mode,
  type Model,
  rowsOf,
} from './model.ts';

/** Entries of the history, and lines of a drain, that are kept. */
const KEPT_MAX = 500;
const PAGE_ROWS = 10;
const FILE_CHARS_MAX = 4_096;
const LIST: Mode = { mode: 'list' };

type PlanEffect = Effect & { do: 'plan' | 'planDrain' };
export type TuiEvent =
  | { readonly event: 'key'; readonly key: KeyName }
  | { readonly event: 'host'; readonly host: HostView }
  /** `of`: what was asked for. */
  | {
      readonly event: 'planned';
      readonly of: PlanEffect;
      readonly lines: readonly string[];
      readonly ok: boolean;
    }
  | {
      readonly event: 'began';
      readonly what: 'move' | 'suspend' | 'resume';
      readonly title: string;
      readonly view: View;
    }
  | { readonly event: 'progress'; readonly of: MigrationEvent; readonly nowMs: number }
  | {
      readonly event: 'ended';
      readonly ok: boolean;
      readonly lines: readonly string[];
      readonly entry: HistoryEntry;
    }
  | { readonly event: 'drained'; readonly lines: readonly string[]; readonly entry?: HistoryEntry };

export type Updated = { readonly model: Model; readonly effects: readonly Effect[] };

export function update(model: Model, event: TuiEvent): Updated {
  switch (event.event) {
    case 'key':
      return onKey(withoutNotice(model), event.key);
    case 'host':
      return only(withHost(model, event.host));
    case 'planned':
      return only(
        model.mode.mode === 'plan' && isPlanOf(model.mode, event.of)
          ? { ...model, mode: { ...model.mode, lines: event.lines, ok: event.ok } }
          : model,
      );
    case 'began':
      return only({ ...model, work: { what: event.what, title: event.title, view: event.view } });
    case 'progress':
      return only(
        model.work === undefined
          ? model
          : { ...model, work: { ...model.work, view: reduceView(model.work.view, event.of, event.nowMs) } },
      );
    case 'ended': {
      const { ok, lines, entry } = event;
      const work = model.work === undefined ? {} : { work: { ...model.work, end: { ok, lines } } };
      return only({ ...model, ...work, history: [...model.history, entry].slice(-KEPT_MAX) });
    }
    case 'drained': {
      const { lines, entry } = event;
      if (model.drain === undefined) return only(model);
      const drain = {
        ...model.drain,
        lines: [...model.drain.lines, ...lines].slice(-KEPT_MAX),
        over: entry !== undefined,
      };
      const history = entry === undefined ? model.history : [...model.history, entry].slice(-KEPT_MAX);
      return only({ ...model, drain, history });
    }
  }
}

/** Another may have been asked for before this one was made. */
function isPlanOf({ what, host, cell, to }: Mode & { mode: 'plan' }, of: PlanEffect): boolean {
  if (of.do === 'planDrain') return what === 'drain' && host === of.host;
  return what === 'move' && isSame(cell, of.cell) && to === of.to;
}

/** How a failure is told, in the words of the command line. */
export function failureLines({ code, message }: OsmosisError): string[] {
  return [`${code}: ${message}`];
}

const only = (model: Model): Updated => ({ model, effects: [] });

function withoutNotice({ notice: _, ...model }: Model): Model {
  return model;
}

const noticed = (model: Model, notice: string): Updated => only({ ...model, notice });

function withHost(model: Model, host: HostView): Model {
  const next = { ...model, hosts: model.hosts.map((each) => (each.name === host.name ? host : each)) };
  const rows = rowsOf(next);
  if (rows.some((row) => isSame(row, model.selected))) return next;
  // What was selected has gone: its host is next to it.
  const fallback = rows.find(({ host: name }) => name === model.selected?.host) ?? rows[0];
  return { ...next, selected: fallback };
}

export function isBusy({ work, drain }: Model): boolean {
  return (work !== undefined && work.end === undefined) || (drain !== undefined && !drain.over);
}

function onKey(model: Model, key: KeyName): Updated {
  if (key === 'interrupt') return onInterrupt(model);
  switch (model.mode.mode) {
    case 'list':
      return onListKey(model, key);
    case 'choose':
      return onChooseKey(model, model.mode, key);
    case 'plan':
      return onPlanKey(model, model.mode, key);
    case 'ask':
      return onAskKey(model, model.mode, key);
    case 'history':
      if (isBack(key)) return only({ ...model, mode: LIST });
      return only({
        ...model,
        mode: { ...model.mode, scroll: scrolled(model.mode.scroll, key, model.history.length) },
      });
    case 'help':
    case 'work':
    case 'drain':
      return only(isBack(key) ? { ...model, mode: LIST } : model);
  }
}

function isBack(key: KeyName): boolean {
  return key === 'escape' || isText(key, 'q') || key === 'enter';
}

function isText(key: KeyName, text: string): boolean {
  return typeof key === 'object' && key.text === text;
}

function onInterrupt(model: Model): Updated {
  if (!isBusy(model)) return { model, effects: [{ do: 'quit' }] };
  const work = model.work === undefined ? {} : { work: { ...model.work, interrupted: true } };
  const drain = model.drain === undefined ? {} : { drain: { ...model.drain, stopping: true } };
  return { model: { ...model, ...work, ...drain }, effects: [{ do: 'interrupt' }] };
}

function onListKey(model: Model, key: KeyName): Updated {
  const step = stepOf(key);
  if (step !== undefined) return only(moved(model, step));
  const { selected } = model;
  if (key === 'enter' || isText(key, 'm')) return chooseDestination(model);
  if (isText(key, 's')) {
    const cell = cellAt(model, selected);
    if (cell === undefined || selected === undefined) return noticed(model, 'select a cell to suspend it');
    return askable(model, { mode: 'ask', what: 'suspend', on: selected, file: `${cell.name}.osmosis` });
  }
  if (isText(key, 'r')) {
    if (selected === undefined) return noticed(model, 'select the host to resume on');
    return askable(model, { mode: 'ask', what: 'resume', on: { host: selected.host }, file: '' });
  }
  if (isText(key, 'd')) return planDrain(model);
  if (isText(key, 'u')) return uncordon(model);
  if (isText(key, 'h')) return only({ ...model, mode: { mode: 'history', scroll: 0 } });
  if (isText(key, '?')) return only({ ...model, mode: { mode: 'help' } });
  if (isText(key, 'w')) return showWork(model);
  if (isText(key, 'q')) {
    if (isBusy(model))
      return noticed(model, 'something is under way (w shows it): wait, or undo it with ctrl-c');
    return { model, effects: [{ do: 'quit' }] };
  }
  return only(model);
}

/** One thing at a time: what goes on has the screen for itself. */
function askable(model: Model, mode: Mode): Updated {
  if (isBusy(model)) return noticed(model, 'something is under way (w shows it)');
  return only({ ...model, mode });
}

function showWork(model: Model): Updated {
  if (model.drain !== undefined && (!model.drain.over || model.work === undefined))
    return only({ ...model, mode: { mode: 'drain' } });
  if (model.work === undefined) return noticed(model, 'nothing has been done yet');
  return only({ ...model, mode: { mode: 'work' } });
}

function chooseDestination(model: Model): Updated {
  const { selected } = model;
  const cell = cellAt(model, selected);
  if (cell === undefined || selected?.cell === undefined) return noticed(model, 'select a cell to move it');
  if (destinationsFrom(model, selected.host).length === 0)
    return noticed(model, 'there is no other host that is up and not cordoned');
  return askable(model, { mode: 'choose', cell: { host: selected.host, cell: selected.cell }, index: 0 });
}

function planDrain(model: Model): Updated {
  const host = model.selected?.host;
  if (host === undefined || hostNamed(model, host)?.state !== 'up')
    return noticed(model, 'select a host that is up');
  const asked = askable(model, { mode: 'plan', what: 'drain', host, ok: false, scroll: 0 });
  return asked.model.mode.mode === 'plan' ? { ...asked, effects: [{ do: 'planDrain', host }] } : asked;
}

function uncordon(model: Model): Updated {
  const host = hostNamed(model, model.selected?.host);
  if (host?.cordoned !== true) return noticed(model, 'select a host that is cordoned');
  return { model, effects: [{ do: 'uncordon', host: host.name }] };
}

function onChooseKey(model: Model, mode: Mode & { mode: 'choose' }, key: KeyName): Updated {
  const hosts = destinationsFrom(model, mode.cell.host);
  const step = stepOf(key);
  if (step !== undefined) {
    const index = clamped(mode.index + step, hosts.length);
    return only({ ...model, mode: { ...mode, index } });
  }
  if (key === 'escape' || isText(key, 'q')) return only({ ...model, mode: LIST });
  const to = hosts[clamped(mode.index, hosts.length)]?.name;
  if (key !== 'enter' || to === undefined) return only(model);
  return {
    model: {
      ...model,
      mode: { mode: 'plan', what: 'move', host: mode.cell.host, cell: mode.cell, to, ok: false, scroll: 0 },
    },
    effects: [{ do: 'plan', cell: mode.cell, to }],
  };
}

function onPlanKey(model: Model, mode: Mode & { mode: 'plan' }, key: KeyName): Updated {
  if (key === 'escape' || isText(key, 'q')) return only({ ...model, mode: LIST });
  if (!isText(key, 'y') || !mode.ok)
    return only({ ...model, mode: { ...mode, scroll: scrolled(mode.scroll, key, mode.lines?.length ?? 0) } });
  if (mode.what === 'drain') {
    const drain = { host: mode.host, lines: [], over: false };
    return {
      model: { ...model, drain, mode: { mode: 'drain' } },
      effects: [{ do: 'drain', host: mode.host }],
    };
  }
  if (mode.cell === undefined || mode.to === undefined) return only(model);
  const name = cellAt(model, mode.cell)?.name ?? mode.cell.cell;
  return {
    model: started(model, 'move', `${name}: ${mode.host} → ${mode.to}`),
    effects: [{ do: 'move', cell: mode.cell, to: mode.to }],
  };
}

function onAskKey(model: Model, mode: Mode & { mode: 'ask' }, key: KeyName): Updated {
  if (key === 'escape') return only({ ...model, mode: LIST });
  if (key === 'backspace') return only({ ...model, mode: { ...mode, file: mode.file.slice(0, -1) } });
  if (typeof key === 'object') {
    const typed = key.text.replace(/\p{Cc}/gu, '');
    return only({ ...model, mode: { ...mode, file: `${mode.file}${typed}`.slice(0, FILE_CHARS_MAX) } });
  }
  if (key !== 'enter') return only(model);
  const { file, on } = mode;
  if (file === '') return noticed(model, 'name a file');
  if (mode.what === 'resume')
    return {
      model: started(model, 'resume', `${file} → ${on.host}`),
      effects: [{ do: 'resume', file, host: on.host }],
    };
  if (on.cell === undefined) return only(model);
  const cell: CellRef = { host: on.host, cell: on.cell };
  const name = cellAt(model, cell)?.name ?? cell.cell;
  return {
    model: started(model, 'suspend', `${name}: ${on.host} → ${file}`),
    effects: [{ do: 'suspend', cell, file }],
  };
}

/** Shown at once; the effect replaces the view where it has other phases. */
function started(model: Model, what: 'move' | 'suspend' | 'resume', title: string): Model {
  return { ...model, work: { what, title, view: viewOf() }, mode: { mode: 'work' } };
}

function stepOf(key: KeyName): number | undefined {
  if (key === 'up' || isText(key, 'k')) return -1;
  if (key === 'down' || isText(key, 'j')) return 1;
  if (key === 'pageUp') return -PAGE_ROWS;
  if (key === 'pageDown') return PAGE_ROWS;
  return undefined;
}

function scrolled(scroll: number, key: KeyName, length: number): number {
  return clamped(scroll + (stepOf(key) ?? 0), length);
}

function clamped(index: number, length: number): number {
  return Math.max(0, Math.min(index, length - 1));
}

function moved(model: Model, step: number): Model {
  const rows = rowsOf(model);
  const at = rows.findIndex((row) => isSame(row, model.selected));
  const selected = rows[clamped(at + step, rows.length)];
  return selected === undefined ? model : { ...model, selected };
}
