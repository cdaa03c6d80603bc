import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { viewOf } from '../display/state.ts';
import type { KeyName } from './keys.ts';
import { type CellView, type Effect, firstModel, type HostView, type Model } from './model.ts';
import { screen } from './screen.ts';
import { type TuiEvent, update } from './update.ts';

const cell = (name: string): CellView => ({
  id: `id-${name}`,
  name,
  pid: 7,
  command: name,
  home: true,
  peers: [],
});
const up = (name: string, cells: string[] = [], cordoned = false): HostView => ({
  name,
  state: 'up',
  load: 0.5,
  cpus: 2,
  roomBytes: 1e9,
  cordoned,
  cells: cells.map(cell),
});
const host = (view: HostView): TuiEvent => ({ event: 'host', host: view });
const key = (text: string): TuiEvent => ({
  event: 'key',
  key: ['up', 'down', 'enter', 'escape', 'backspace', 'interrupt'].includes(text)
    ? (text as KeyName)
    : { text },
});
const entry = { at: 0, what: 'move', text: 'moved', ok: true } as const;

/** Hosts alpha (cells x and y), beta, gamma (cordoned), after these keys and events. */
function run(...steps: (string | TuiEvent)[]): { model: Model; effects: readonly Effect[] } {
  const begun = [host(up('alpha', ['x', 'y'])), host(up('beta')), host(up('gamma', [], true))];
  let model = firstModel(['alpha', 'beta', 'gamma']);
  let effects: readonly Effect[] = [];
  for (const step of [...begun, ...steps])
    ({ model, effects } = update(model, typeof step === 'string' ? key(step) : step));
  return { model, effects };
}
const X = { host: 'alpha', cell: 'id-x' };

const planned = {
  event: 'planned',
  of: { do: 'plan', cell: X, to: 'beta' },
  lines: ['ok'],
  ok: true,
} as const satisfies TuiEvent;
const DRAIN_PLANNED: TuiEvent = {
  event: 'planned',
  of: { do: 'planDrain', host: 'alpha' },
  lines: ['x to beta'],
  ok: true,
};

describe('the list', () => {
  it('selects what is below and above, and no further', () => {
    expect(run('down').model.selected).toEqual(X);
    expect(run('down', 'up', 'up').model.selected).toEqual({ host: 'alpha' });
    expect(run('j', 'j', 'j', 'j', 'j', 'j').model.selected).toEqual({ host: 'gamma' });
  });

  it('keeps what was selected when hosts answer anew, or falls back to its host', () => {
    expect(run('down', host(up('alpha', ['a', 'x']))).model.selected).toEqual(X);
    expect(run('down', host(up('alpha', ['y']))).model.selected).toEqual({ host: 'alpha' });
  });

  it.each(['m', 's'])('%s wants a cell', (text) => {
    const { model, effects } = run(text);
    expect(model.notice).toMatch(/select a cell/);
    expect({ mode: model.mode, effects }).toEqual({ mode: { mode: 'list' }, effects: [] });
    expect(run(text, 'down').model.notice).toBeUndefined();
  });

  it('quits, unless something is under way', () => {
    expect(run('q').effects).toEqual([{ do: 'quit' }]);
    const busy = run('down', 'm', 'enter', planned, 'y', 'escape', 'q');
    expect(busy.effects).toEqual([]);
    expect(busy.model.notice).toMatch(/under way/);
  });
});

describe('a move', () => {
  it('is chosen, planned, confirmed and watched', () => {
    expect(run('down', 'm').model.mode).toMatchObject({ mode: 'choose', cell: X });
    const plan = run('down', 'm', 'enter');
    expect(plan.effects).toEqual([{ do: 'plan', cell: X, to: 'beta' }]);
    const confirmed = run('down', 'm', 'enter', planned, 'y');
    expect(confirmed.effects).toEqual([{ do: 'move', cell: X, to: 'beta' }]);
    expect(confirmed.model).toMatchObject({ mode: { mode: 'work' }, work: { title: 'x: alpha → beta' } });
  });

  it('does not offer hosts that are cordoned', () => {
    const { model } = run('down', 'm', 'down', 'down', 'enter');
    expect(model.mode).toMatchObject({ mode: 'plan', to: 'beta' });
  });

  it('is not confirmed before its plan is there and good', () => {
    expect(run('down', 'm', 'enter', 'y').effects).toEqual([]);
    const bad: TuiEvent = { ...planned, lines: ['FAIL'], ok: false };
    expect(run('down', 'm', 'enter', bad, 'y').effects).toEqual([]);
  });

  it('is not confirmed by the plan of something else that was asked for before', () => {
    const other: TuiEvent = { ...planned, of: { ...planned.of, to: 'gamma' } };
    expect(run('down', 'm', 'enter', other, 'y').effects).toEqual([]);
    expect(run('down', 'm', 'enter', DRAIN_PLANNED, 'y').effects).toEqual([]);
    expect(run('d', planned, 'y').effects).toEqual([]);
  });

  it('shows its progress and its end, and is in the history', () => {
    const { model } = run(
      'down',
      'm',
      'enter',
      planned,
      'y',
      { event: 'began', what: 'move', title: 't', view: viewOf() },
      { event: 'progress', of: { event: 'blackout', ms: 5 }, nowMs: 1 },
      { event: 'ended', ok: true, lines: ['Moved'], entry },
    );
    expect(model.work).toMatchObject({ view: { blackoutMs: 5 }, end: { ok: true, lines: ['Moved'] } });
    expect(model.history).toEqual([entry]);
  });

  it('is undone by ctrl-c, which quits once nothing is under way', () => {
    const moving = run('down', 'm', 'enter', planned, 'y', 'interrupt');
    expect(moving.effects).toEqual([{ do: 'interrupt' }]);
    expect(moving.model.work?.interrupted).toBe(true);
    expect(run('interrupt').effects).toEqual([{ do: 'quit' }]);
  });
});

describe('a drain', () => {
  it('is planned, confirmed, and told line by line', () => {
    expect(run('d').effects).toEqual([{ do: 'planDrain', host: 'alpha' }]);
    const begun = run('d', DRAIN_PLANNED, 'y');
    expect(begun.effects).toEqual([{ do: 'drain', host: 'alpha' }]);
    const over = run(
      'd',
      DRAIN_PLANNED,
      'y',
      { event: 'drained', lines: ['one'] },
      { event: 'drained', lines: ['two'], entry: { ...entry, what: 'drain' } },
    );
    expect(over.model.drain).toEqual({ host: 'alpha', lines: ['one', 'two'], over: true });
  });

  it('uncordons a host that is cordoned', () => {
    expect(run('down', 'down', 'down', 'down', 'u').effects).toEqual([{ do: 'uncordon', host: 'gamma' }]);
    expect(run('u').model.notice).toMatch(/cordoned/);
  });
});

describe('a file', () => {
  it('is asked for, with a name to begin with', () => {
    const { effects } = run('down', 's', 'backspace', '2', 'enter');
    expect(effects).toEqual([{ do: 'suspend', cell: X, file: 'x.osmosi2' }]);
    expect(run('r', '/srv/x', 'enter').effects).toEqual([{ do: 'resume', file: '/srv/x', host: 'alpha' }]);
    expect(run('r', 'enter').model.notice).toBe('name a file');
    expect(run('r', 'a', 'escape').model.mode).toEqual({ mode: 'list' });
  });
});

it('whatever keys come, no two things are under way, and the screen has its size', () => {
  const keys = fc.constantFrom('up', 'down', 'enter', 'escape', 'backspace', 'interrupt', ...'msrdhuw?qyjk');
  const plannedOr = fc.oneof(keys, fc.constantFrom<TuiEvent>(planned, DRAIN_PLANNED));
  fc.assert(
    fc.property(fc.array(plannedOr, { maxLength: 40 }), fc.integer({ min: 1, max: 120 }), (steps, size) => {
      let busy = 0;
      let model = run().model;
      for (const step of steps) {
        const next = update(model, typeof step === 'string' ? key(step) : step);
        for (const effect of next.effects)
          if (
            effect.do === 'move' ||
            effect.do === 'drain' ||
            effect.do === 'suspend' ||
            effect.do === 'resume'
          )
            busy += 1;
        model = next.model;
        const lines = screen(model, size, size, 0);
        expect(lines).toHaveLength(size);
        for (const { text } of lines) expect(text.length).toBeLessThanOrEqual(size);
      }
      expect(busy).toBeLessThanOrEqual(1);
    }),
  );
});
