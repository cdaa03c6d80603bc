/** Screens as a person sees them, at 80×24. */
import { describe, expect, it } from 'vitest';
import { reduceView, viewOf } from '../display/state.ts';
import { firstModel, type Model } from './model.ts';
import { screen } from './screen.ts';

const peer = (address: string, flows: number, inPerS: number) => ({
  address,
  flows,
  bytesIn: 5_000,
  bytesOut: 7_000,
  inPerS,
  outPerS: 2 * inPerS,
});
const MODEL: Model = {
  ...firstModel(['alpha', 'beta', 'gamma']),
  hosts: [
    {
      name: 'alpha',
      state: 'up',
      load: 0.42,
      cpus: 2,
      roomBytes: 8.59e9,
      cordoned: false,
      cells: [
        {
          id: 'r',
          name: 'redis-1',
          pid: 4711,
          command: 'redis-server *:7000',
          home: false,
          peers: [peer('10.77.4.2', 12, 1_000), peer('10.77.5.2', 1, 2_000)],
        },
      ],
    },
    { name: 'beta', state: 'up', load: 1, cpus: 2, roomBytes: 1e9, cordoned: true, cells: [] },
    { name: 'gamma', state: 'down', message: 'no route\nto it', cells: [] },
  ],
  selected: { host: 'alpha', cell: 'r' },
};
const textOf = (model: Model, nowMs = 0) => screen(model, 80, 24, nowMs).map(({ text }) => text.trimEnd());

it('lists hosts and cells, and the connections of the selected one', () => {
  expect(textOf(MODEL)).toEqual([
    ' osmosis                                                2 of 3 hosts up, 1 cell',
    '  alpha               load 0.42 of 2, 8.59 GB free',
    '▸   redis-1              4711 away   13 flows  in 3.00 kB/s, out 6.00 kB/s',
    '  beta                load 1.00 of 2, 1.00 GB free  CORDONED',
    '  gamma               DOWN  no route to it',
    ...Array(10).fill(''),
    '─'.repeat(80),
    ' redis-1: redis-server *:7000',
    '   10.77.5.2            1 flow  in 2.00 kB/s (5.00 kB)  out 4.00 kB/s (7.00 kB)',
    '   10.77.4.2          12 flows  in 1.00 kB/s (5.00 kB)  out 2.00 kB/s (7.00 kB)',
    '',
    '',
    '',
    '',
    ' ↑↓ select  m move  s suspend  r resume  d drain  h history  ? help  q quit',
  ]);
});

describe('a move', () => {
  const view = (
    [
      { event: 'phase', phase: 'plan', state: 'done', ms: 12 },
      { event: 'phase', phase: 'prepare', state: 'done', ms: 34 },
      { event: 'phase', phase: 'freeze', state: 'start' },
      { event: 'progress', bytes: 9.5e8, bytes_per_s: 8.12e8 },
    ] as const
  ).reduce((before, event) => reduceView(before, event, 1_000), viewOf());

  it('is shown as it happens', () => {
    const model: Model = {
      ...MODEL,
      mode: { mode: 'work' },
      work: { what: 'move', title: 'redis-1: alpha → beta', view },
    };
    expect(textOf(model, 1_130).slice(1, 13)).toEqual([
      '',
      ' redis-1: alpha → beta',
      '',
      '   ✓ plan             12 ms',
      '   ✓ prepare          34 ms',
      '   ▸ freeze          130 ms',
      '   · restore',
      '   · commit',
      '   · redirect',
      '   · confirm',
      '     image     950 MB at 812 MB/s',
      '',
    ]);
    expect(textOf(model).at(-1)).toBe(' ctrl-c undo, before commit  esc back, it goes on');
  });

  it('is shown when it is over', () => {
    const end = {
      ok: false,
      lines: ['RESTORE_FAILED: criu said no. The process goes on at alpha; try again or elsewhere.'],
    };
    const model: Model = { ...MODEL, mode: { mode: 'work' }, work: { what: 'move', title: 't', view, end } };
    const lines = screen(model, 80, 24, 0).filter(({ style }) => style === 'bad');
    expect(lines.map(({ text }) => text.trimEnd())).toEqual([
      ' RESTORE_FAILED: criu said no. The process goes on at alpha; try again or',
      '   elsewhere.',
    ]);
  });
});

it('offers the hosts that may take a cell', () => {
  const model: Model = { ...MODEL, mode: { mode: 'choose', cell: { host: 'gamma', cell: 'x' }, index: 0 } };
  expect(textOf(model).slice(2, 5)).toEqual([
    ' Move x from gamma to',
    '▸ alpha               load 0.42 of 2, 8.59 GB free',
    '',
  ]);
});

it('scrolls a plan that is longer than the screen', () => {
  const lines = Array.from({ length: 40 }, (_, index) => `line ${index}`);
  const model: Model = {
    ...MODEL,
    mode: { mode: 'plan', what: 'move', host: 'alpha', lines, ok: true, scroll: 30 },
  };
  expect(textOf(model)[2]).toBe(' line 20');
  expect(textOf(model).at(-3)).toBe(' line 39');
});

it('says how large it must be', () => {
  expect(screen(MODEL, 30, 5, 0)[0]?.text).toBe('make it 40×10');
});

it('has help that fits', () => {
  const help = screen({ ...MODEL, mode: { mode: 'help' } }, 80, 24, 0);
  expect(help.filter(({ text }) => text.includes('…'))).toEqual([]);
  expect(help.at(-1)?.text).toBe(' esc back');
});
