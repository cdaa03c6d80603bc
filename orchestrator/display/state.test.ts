import { expect, it } from 'vitest';
import type { MigrationEvent } from '../events.ts';
import { elapsedMs, reduceView, viewOf } from './state.ts';

const run = (...events: MigrationEvent[]) =>
  events.reduce((view, event, index) => reduceView(view, event, index * 10), viewOf());
const row = (view: ReturnType<typeof viewOf>, phase: string) =>
  view.phases.find((one) => one.phase === phase);

it('follows a phase from start to end', () => {
  const running = run({ event: 'phase', phase: 'plan', state: 'start' });
  expect(row(running, 'plan')).toEqual({ phase: 'plan', status: 'running', startedMs: 0 });
  expect(row(running, 'prepare')).toEqual({ phase: 'prepare', status: 'waiting' });
  const done = reduceView(running, { event: 'phase', phase: 'plan', state: 'done', ms: 7 }, 99);
  expect(row(done, 'plan')).toMatchObject({ status: 'done', ms: 7 });
});

it('times a phase itself where the event does not say', () => {
  const view = run(
    { event: 'phase', phase: 'plan', state: 'start' },
    { event: 'phase', phase: 'plan', state: 'failed' },
  );
  expect(row(view, 'plan')).toMatchObject({ status: 'failed', ms: 10 });
});

it('survives an end without a start', () => {
  expect(row(run({ event: 'phase', phase: 'plan', state: 'done' }), 'plan')).toMatchObject({
    status: 'done',
    ms: 0,
  });
});

it('keeps the last progress, the blackout and every note', () => {
  const view = run(
    { event: 'progress', bytes: 1, bytes_per_s: 2 },
    { event: 'progress', bytes: 3, bytes_per_s: 4 },
    { event: 'note', level: 'info', message: 'a' },
    { event: 'note', level: 'warn', message: 'b' },
    { event: 'blackout', ms: 5 },
  );
  expect(view).toMatchObject({ bytes: 3, bytesPerSecond: 4, blackoutMs: 5 });
  expect(view.notes.map(({ message }) => message)).toEqual(['a', 'b']);
});

it('counts the time of a phase that runs', () => {
  expect(elapsedMs({ phase: 'plan', status: 'waiting' }, 50)).toBeUndefined();
  expect(elapsedMs({ phase: 'plan', status: 'running', startedMs: 20 }, 50)).toBe(30);
  expect(elapsedMs({ phase: 'plan', status: 'done', startedMs: 20, ms: 7 }, 50)).toBe(7);
});
