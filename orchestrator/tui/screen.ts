/** The screen as lines of styled text, from the model and the size of the terminal alone. */
import { bytesText, countText, durationText, plainText, rateText } from '../display/format.ts';
import { elapsedMs, type View } from '../display/state.ts';
import { HELP, shownKeys } from './keys.ts';
import {
  type CellView,
  cellAt,
  destinationsFrom,
  type HostView,
  hostNamed,
  isSame,
  type Mode,
  type Model,
  rowsOf,
  type Selected,
} from './model.ts';

const COLUMNS_MIN = 40;
const ROWS_MIN = 10;
/** Lines of the selected cell's connections. */
const DETAIL_ROWS = 6;
const NAME_COLUMNS = 16;
const MARKS = { waiting: '·', running: '▸', done: '✓', failed: '✗' } as const;

export type Style = 'title' | 'selected' | 'dim' | 'good' | 'bad' | 'warn';
export type Line = { readonly text: string; readonly style?: Style };

/** Exactly `rows` lines, none longer than `columns`. @param nowMs a clock that only rises, for what is under way */
export function screen(model: Model, columns: number, rows: number, nowMs: number): Line[] {
  if (columns < COLUMNS_MIN || rows < ROWS_MIN)
    return padded([{ text: `make it ${COLUMNS_MIN}×${ROWS_MIN}` }], rows).map((line) => cut(line, columns));
  const foot = footer(model);
  const body = bodyOf(model, rows - 1 - foot.length, nowMs, columns);
  return [...padded([titleLine(model, columns), ...body], rows - foot.length), ...foot].map((line) =>
    cut(line, columns),
  );
}

function bodyOf(model: Model, rows: number, nowMs: number, columns: number): Line[] {
  const { mode } = model;
  switch (mode.mode) {
    case 'list':
      return listLines(model, rows, columns);
    case 'help':
      return HELP.map((text) => ({ text: ` ${text}` }));
    case 'history':
      return historyLines(model, mode.scroll, rows);
    case 'choose':
      return chooseLines(model, mode, rows);
    case 'plan':
      return planLines(mode, rows, columns);
    case 'ask':
      return askLines(model, mode);
    case 'work':
      return workLines(model, nowMs, columns);
    case 'drain':
      return drainLines(model, rows, columns);
  }
}

function titleLine(model: Model, columns: number): Line {
  const up = model.hosts.filter(({ state }) => state === 'up').length;
  const cells = model.hosts.reduce((sum, host) => sum + host.cells.length, 0);
  const right = `${up} of ${countText(model.hosts.length, 'host')} up, ${countText(cells, 'cell')} `;
  return { text: ` osmosis${right.padStart(columns - 8)}`, style: 'title' };
}

function footer(model: Model): Line[] {
  const over =
    model.mode.mode === 'drain'
      ? model.drain?.over !== false
      : model.work === undefined || model.work.end !== undefined;
  const keys = shownKeys(model.mode, { over }).map((key) => `${key.keys} ${key.what}`);
  return [
    { text: ` ${model.notice ?? ''}`, style: 'warn' },
    { text: ` ${keys.join('  ')}`, style: 'dim' },
  ];
}

function listLines(model: Model, rows: number, columns: number): Line[] {
  const all = rowsOf(model);
  const details = detailLines(model, columns);
  const room = Math.max(rows - details.length, 1);
  const at = all.findIndex((row) => isSame(row, model.selected));
  const top = Math.max(0, Math.min(at - Math.floor(room / 2), all.length - room));
  const shown = all.slice(top, top + room).map((row) => rowLine(model, row));
  return [...padded(shown, room), ...details];
}

function rowLine(model: Model, row: Selected): Line {
  const isSelected = isSame(row, model.selected);
  const mark = isSelected ? '▸' : ' ';
  const cell = cellAt(model, row);
  const host = hostNamed(model, row.host);
  const text =
    cell !== undefined
      ? `${mark}   ${cell.name.padEnd(NAME_COLUMNS)}  ${cellText(cell)}`
      : `${mark} ${hostText(host, row.host)}`;
  if (isSelected) return { text, style: 'selected' };
  return host?.state === 'down' ? { text, style: 'bad' } : { text };
}

function hostText(host: HostView | undefined, name: string): string {
  const head = name.padEnd(NAME_COLUMNS + 2);
  if (host === undefined || host.state === 'connecting') return `${head}  connecting…`;
  if (host.state === 'down') return `${head}  DOWN  ${plainText(host.message ?? '')}`;
  const load = `load ${(host.load ?? 0).toFixed(2)} of ${host.cpus}`;
  const cordoned = host.cordoned ? '  CORDONED' : '';
  return `${head}  ${load}, ${bytesText(host.roomBytes ?? 0)} free${cordoned}`;
}

function cellText({ pid, home, peers }: CellView): string {
  const flows = peers.reduce((sum, peer) => sum + peer.flows, 0);
  const [into, out] = [sum(peers, 'inPerS'), sum(peers, 'outPerS')];
  const where = home ? 'home' : 'away';
  return `${String(pid).padStart(7)} ${where}  ${countText(flows, 'flow').padStart(9)}  in ${rateText(into)}, out ${rateText(out)}`;
}

function sum(peers: CellView['peers'], key: 'inPerS' | 'outPerS'): number {
  return peers.reduce((total, peer) => total + peer[key], 0);
}

function detailLines(model: Model, columns: number): Line[] {
  const cell = cellAt(model, model.selected);
  const rule = { text: '─'.repeat(columns), style: 'dim' } as const;
  if (cell === undefined) return [rule, ...padded([{ text: ' ' }], DETAIL_ROWS)];
  const sorted = cell.peers.toSorted((a, b) => b.inPerS + b.outPerS - (a.inPerS + a.outPerS));
  const shown = sorted.slice(0, DETAIL_ROWS - 2);
  const more = sorted.length - shown.length;
  const lines = [
    { text: ` ${cell.name}: ${plainText(cell.command)}` },
    ...shown.map(({ address, flows, inPerS, outPerS, bytesIn, bytesOut }) => ({
      text: `   ${address.padEnd(NAME_COLUMNS)} ${countText(flows, 'flow').padStart(10)}  in ${rateText(inPerS).padStart(9)} (${bytesText(bytesIn)})  out ${rateText(outPerS).padStart(9)} (${bytesText(bytesOut)})`,
    })),
    ...(more > 0 ? [{ text: `   and ${countText(more, 'peer')} more`, style: 'dim' as const }] : []),
    ...(cell.peers.length === 0 ? [{ text: '   no connections', style: 'dim' as const }] : []),
  ];
  return [rule, ...padded(lines, DETAIL_ROWS)];
}

function chooseLines(model: Model, { cell, index }: Mode & { mode: 'choose' }, rows: number): Line[] {
  const name = cellAt(model, cell)?.name ?? cell.cell;
  const hosts = destinationsFrom(model, cell.host);
  const top = Math.max(0, index - (rows - 4));
  return [
    { text: '' },
    { text: ` Move ${name} from ${cell.host} to`, style: 'title' },
    ...hosts.slice(top, top + rows - 2).map((host, at): Line => {
      const isChosen = at + top === index;
      const text = `${isChosen ? '▸' : ' '} ${hostText(host, host.name)}`;
      return isChosen ? { text, style: 'selected' } : { text };
    }),
  ];
}

function planLines(mode: Mode & { mode: 'plan' }, rows: number, columns: number): Line[] {
  if (mode.lines === undefined)
    return [
      { text: '' },
      { text: mode.what === 'drain' ? ` looking at every cell of ${mode.host}…` : ' looking…' },
    ];
  const lines = mode.lines.flatMap((line) => wrapped(line, columns - 2));
  const room = rows - 1;
  const top = Math.max(0, Math.min(mode.scroll, lines.length - room));
  return [
    { text: '' },
    ...lines.slice(top, top + room).map((text): Line => {
      const line = { text: ` ${text}` };
      if (/^\s*FAIL |NO AGENT|NOWHERE|^[A-Z_]+: /.test(text)) return { ...line, style: 'bad' };
      return line;
    }),
  ];
}

function askLines(model: Model, { what, on, file }: Mode & { mode: 'ask' }): Line[] {
  const title =
    what === 'suspend'
      ? ` Suspend ${cellAt(model, on)?.name ?? ''} of ${on.host} into which new file on this machine?`
      : ` Resume which file of this machine on ${on.host}?`;
  return [
    { text: '' },
    { text: title, style: 'title' },
    { text: '' },
    { text: `   ${file}▏`, style: 'selected' },
    { text: '' },
    {
      text:
        what === 'suspend'
          ? ` The key is written to ${file}.key: keep it apart.`
          : ` The key is read from ${file}.key.`,
      style: 'dim',
    },
  ];
}

function workLines({ work }: Model, nowMs: number, columns: number): Line[] {
  if (work === undefined) return [];
  return [
    { text: '' },
    { text: ` ${work.title}`, style: 'title' },
    { text: '' },
    ...phaseLines(work.view, nowMs),
    ...work.view.notes
      .slice(-3)
      .flatMap(({ level, message }) =>
        wrapped(plainText(message), columns - 2).map(
          (text): Line => ({ text: ` ${text}`, style: level === 'warn' ? 'warn' : 'dim' }),
        ),
      ),
    ...(work.interrupted && work.end === undefined
      ? [{ text: ' interrupted: undoing…', style: 'warn' as const }]
      : []),
    ...(work.end?.lines ?? [])
      .flatMap((line) => wrapped(line, columns - 2))
      .map((text): Line => ({ text: ` ${text}`, style: work.end?.ok ? 'good' : 'bad' })),
  ];
}

function phaseLines(view: View, nowMs: number): Line[] {
  const phases = view.phases.map((row): Line => {
    const elapsed = elapsedMs(row, nowMs);
    const time = elapsed === undefined ? '' : durationText(elapsed).padStart(12);
    const text = `   ${MARKS[row.status]} ${row.phase.padEnd(10)}${time}`;
    if (row.status === 'waiting') return { text, style: 'dim' };
    return row.status === 'failed' ? { text, style: 'bad' } : { text };
  });
  const image =
    view.bytes > 0
      ? [{ text: `     image     ${bytesText(view.bytes)} at ${rateText(view.bytesPerSecond)}` }]
      : [];
  const blackout =
    view.blackoutMs === undefined ? [] : [{ text: `     blackout  ${durationText(view.blackoutMs)}` }];
  return [...phases, ...image, ...blackout];
}

function drainLines({ drain }: Model, rows: number, columns: number): Line[] {
  if (drain === undefined) return [];
  const isStopping = drain.stopping === true && !drain.over;
  const room = Math.max(rows - 2 - Number(isStopping), 1);
  const lines = drain.lines.flatMap((line) => wrapped(line, columns - 2)).slice(-room);
  return [
    { text: '' },
    { text: ` ${drain.over ? 'Drain of' : 'Draining'} ${drain.host}`, style: 'title' },
    ...lines.map((text) => ({ text: ` ${text}` })),
    ...(isStopping
      ? [{ text: ' no move begins any more; those in flight end', style: 'warn' as const }]
      : []),
  ];
}

function historyLines({ history }: Model, scroll: number, rows: number): Line[] {
  if (history.length === 0) return [{ text: '' }, { text: ' nothing yet' }];
  const latestFirst = history.toReversed();
  return latestFirst.slice(scroll, scroll + rows).map(
    ({ at, text, ok }): Line => ({
      text: ` ${new Date(at).toISOString().slice(11, 19)}  ${plainText(text)}`,
      ...(ok ? {} : { style: 'bad' as const }),
    }),
  );
}

function wrapped(text: string, columns: number): string[] {
  const words = plainText(text) === '' ? [''] : text.replace(/\p{Cc}+/gu, ' ').split(/(?<= )/);
  const lines: string[] = [];
  let line = '';
  for (const word of words) {
    if (line.length + word.trimEnd().length > columns && line.trim() !== '') {
      lines.push(line.trimEnd());
      line = '  ';
    }
    line += word;
    while (line.length > columns) {
      lines.push(line.slice(0, columns));
      line = `  ${line.slice(columns)}`;
    }
  }
  return [...lines, line.trimEnd()];
}

function padded(lines: readonly Line[], rows: number): Line[] {
  return [...lines, ...Array.from({ length: Math.max(rows - lines.length, 0) }, () => ({ text: '' }))].slice(
    0,
    rows,
  );
}

function cut(line: Line, columns: number): Line {
  return line.text.length <= columns ? line : { ...line, text: `${line.text.slice(0, columns - 1)}…` };
}
