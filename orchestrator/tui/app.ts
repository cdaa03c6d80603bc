/** The screen in ink: one Text a line. createElement, not JSX: Node strips types but doesn't compile JSX. */
import { Box, type Key, Text, useInput, useWindowSize } from 'ink';
import { createElement as h, type ReactElement } from 'react';
import type { KeyName } from './keys.ts';
import type { Model } from './model.ts';
import { type Line, type Style, screen } from './screen.ts';

const COLORS: Record<Style, { color?: string; bold?: boolean; dimColor?: boolean; inverse?: boolean }> = {
  title: { bold: true },
  selected: { inverse: true },
  dim: { dimColor: true },
  good: { color: 'green' },
  bad: { color: 'red' },
  warn: { color: 'yellow' },
};
/** What is left where there are to be no colours. */
const PLAIN: Partial<typeof COLORS> = { title: { bold: true }, selected: { inverse: true } };

type Props = {
  readonly model: Model;
  readonly nowMs: number;
  readonly isColored: boolean;
  readonly onKey: (key: KeyName) => void;
};

export function App({ model, nowMs, isColored, onKey }: Props): ReactElement {
  const { columns, rows } = useWindowSize();
  useInput((input, key) => {
    const name = keyName(input, key);
    if (name !== undefined) onKey(name);
  });
  const styles = isColored ? COLORS : PLAIN;
  return h(
    Box,
    { flexDirection: 'column' },
    ...screen(model, columns, rows, nowMs).map((line, index) => h(Row, { key: index, line, styles })),
  );
}

function Row({ line, styles }: { line: Line; styles: Partial<typeof COLORS> }): ReactElement {
  const style = line.style === undefined ? {} : (styles[line.style] ?? {});
  // An empty Text has no height.
  return h(Text, { wrap: 'truncate', ...style }, line.text === '' ? ' ' : line.text);
}

/** As ink tells it → as update.ts has it. */
function keyName(input: string, key: Key): KeyName | undefined {
  if (key.ctrl) return input === 'c' ? 'interrupt' : undefined;
  if (key.upArrow) return 'up';
  if (key.downArrow) return 'down';
  if (key.pageUp) return 'pageUp';
  if (key.pageDown) return 'pageDown';
  if (key.return) return 'enter';
  if (key.escape) return 'escape';
  if (key.backspace || key.delete) return 'backspace';
  if (key.meta || input === '') return undefined;
  return { text: input };
}
