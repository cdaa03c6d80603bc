/** One session against a scripted agent and a terminal that does nothing by itself. */
import { EventEmitter } from 'node:events';
import { expect, test } from 'vitest';
import { OsmosisError } from '../../agent/error.ts';
import { type Answers, fakeHosts } from '../fake-agent.ts';
import type { HostConnection, HostTerminal } from '../ssh/host.ts';
import { BLIND } from './fake-screen.ts';
import { Keyboard } from './keyboard.ts';
import { runSession } from './session.ts';

const CELL = 'c'.repeat(32);
const HERE = { state: 'here', cell: CELL, name: 'notes', terminal: { escape: 'C-\\' } } as const;
class Typed extends EventEmitter {
  resume(): void {}
  pause(): void {}
}

/** `opened`: called while the terminal is being opened. */
function setUp(answers: Answers, opened: () => void = () => undefined) {
  const typed = new Typed();
  const keyboard = new Keyboard(typed, () => undefined);
  keyboard.start();
  const { promise: done, resolve: end } = Promise.withResolvers<number | undefined>();
  let closes = 0;
  const terminal: HostTerminal = {
    draws: true,
    write: () => undefined,
    resize: () => undefined,
    close: () => {
      closes += 1;
      end(0);
    },
    done,
  };
  const connection = {
    name: 'local',
    openTerminal: async () => {
      opened();
      return terminal;
    },
  } as unknown as HostConnection;
  const agent = fakeHosts({
    'terminal.attach': () => new Promise(() => undefined),
    'terminal.left': async () => ({ forced: false }),
    'terminal.state': async () => HERE,
    'terminal.type': async () => ({}),
    ...answers,
  }).source.control;
  const run = (signal: AbortSignal) => runSession({ connection, agent, cell: CELL }, BLIND, keyboard, signal);
  return {
    run,
    keyboard,
    type: (text: string) => typed.emit('data', Buffer.from(text)),
    closes: () => closes,
  };
}

test('whoever lets go while the terminal is being opened has let go of it', async () => {
  const leave = new AbortController();
  const { run, closes } = setUp({}, () => leave.abort());
  await expect(run(leave.signal)).resolves.toMatchObject({ end: 'lost' });
  expect(closes()).toBe(1);
});

test('keys that come too late for a cell that leaves are kept for where it goes', async () => {
  const { promise: told, resolve: leaves } = Promise.withResolvers<Record<string, never>>();
  const { run, keyboard, type, closes } = setUp({
    'terminal.attach': () => told,
    'terminal.type': async () => {
      setImmediate(() => leaves({}));
      throw new OsmosisError('BUSY', 'the cell is about to leave this host: type there');
    },
  });
  type('abc');
  await expect(run(new AbortController().signal)).resolves.toEqual({ end: 'left', forced: false });
  expect(keyboard.take().toString()).toBe('abc');
  expect(closes()).toBe(1);
});

test('where the kept keys can not be typed, no client stays behind at the terminal', async () => {
  const { run, type, closes } = setUp({
    'terminal.type': async () => {
      throw new OsmosisError('CELL', 'tmux: failed');
    },
  });
  type('abc');
  await expect(run(new AbortController().signal)).rejects.toMatchObject({ code: 'CELL' });
  expect(closes()).toBe(1);
});
