/** The live display's components. createElement, not JSX: Node strips types but doesn't compile JSX. */
import { Box, Static, Text } from 'ink';
import { createElement as h, type ReactElement } from 'react';
import { bytesText, durationText, filesText, rateText } from './format.ts';
import { elapsedMs, type Note, type PhaseView, type View } from './state.ts';

const MARKS = {
  waiting: { symbol: '·', color: 'gray' },
  running: { symbol: '▸', color: 'cyan' },
  done: { symbol: '✓', color: 'green' },
  failed: { symbol: '✗', color: 'red' },
} as const;
const NAME_COLUMNS = 10;
const TIME_COLUMNS = 12;

type Props = { readonly view: View; readonly nowMs: number; readonly isColored: boolean };

/** Notes stay above, as ordinary lines; below them one row for each phase, then the image and the blackout. */
export function MigrationView({ view, nowMs, isColored }: Props): ReactElement {
  return h(
    Box,
    { flexDirection: 'column' },
    h(Static<Note>, {
      items: [...view.notes],
      // biome-ignore lint/correctness/noChildrenProp: it is a function, which createElement's type takes only as a prop
      children: (note, index) => h(NoteRow, { key: index, note, isColored }),
    }),
    ...view.phases.map((row) => h(PhaseRow, { key: row.phase, row, nowMs, isColored })),
    view.files === undefined ? undefined : h(Text, null, `  files     ${filesText(view.files)}`),
    view.bytes > 0
      ? h(Text, null, `  image     ${bytesText(view.bytes)} at ${rateText(view.bytesPerSecond)}`)
      : undefined,
    view.blackoutMs === undefined ? undefined : h(Text, null, `  blackout  ${durationText(view.blackoutMs)}`),
  );
}

function PhaseRow({
  row,
  nowMs,
  isColored,
}: {
  row: PhaseView;
  nowMs: number;
  isColored: boolean;
}): ReactElement {
  const { symbol, color } = MARKS[row.status];
  const elapsed = elapsedMs(row, nowMs);
  const time = elapsed === undefined ? '' : durationText(elapsed).padStart(TIME_COLUMNS);
  return h(Text, isColored ? { color } : null, `${symbol} ${row.phase.padEnd(NAME_COLUMNS)}${time}`);
}

function NoteRow({ note, isColored }: { note: Note; isColored: boolean }): ReactElement {
  const isWarning = note.level === 'warn';
  const text = isWarning ? `warning: ${note.message}` : note.message;
  return h(Text, isColored && isWarning ? { color: 'yellow' } : null, text);
}
