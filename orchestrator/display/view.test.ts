import { renderToString } from 'ink';
import { createElement } from 'react';
import { expect, it } from 'vitest';
import { reduceView, viewOf } from './state.ts';
import { MigrationView } from './view.ts';

it('shows notes, phases, image and blackout', () => {
  const view = (
    [
      { event: 'note', level: 'warn', message: '10.0.0.9 has no agent' },
      { event: 'phase', phase: 'plan', state: 'done', ms: 12 },
      { event: 'phase', phase: 'prepare', state: 'failed', ms: 3400 },
      { event: 'phase', phase: 'freeze', state: 'start' },
      { event: 'progress', bytes: 9.5e8, bytes_per_s: 8.12e8 },
      { event: 'blackout', ms: 412 },
    ] as const
  ).reduce((before, event) => reduceView(before, event, 1_000), viewOf());
  const text = renderToString(createElement(MigrationView, { view, nowMs: 1_130, isColored: false }));
  expect(text.split('\n').map((line) => line.trimEnd())).toEqual([
    'warning: 10.0.0.9 has no agent',
    '✓ plan             12 ms',
    '✗ prepare         3.40 s',
    '▸ freeze          130 ms',
    '· restore',
    '· commit',
    '· redirect',
    '· confirm',
    '  image     950 MB at 812 MB/s',
    '  blackout  412 ms',
  ]);
});
