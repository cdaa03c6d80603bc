import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, writeFileSync } from 'node:fs';
import { beforeEach, describe, expect, it, onTestFinished } from 'vitest';
import { type Cell, Registry } from '../cell/registry.ts';
import { temporaryDirectory } from '../test-support.ts';
import { Terminals } from './terminals.ts';

const { signal } = new AbortController();
const [ONE, TWO] = ['1'.repeat(32), '2'.repeat(32)] as const;
const TO = { name: 'beta', hostname: 'beta.example' };

describe('Terminals', () => {
  let registry: Registry;
  let terminals: Terminals;
  let cell: Cell;
  const state = (target: string = cell.name) => terminals.state(target, 0, signal);
  beforeEach(async () => {
    const run = temporaryDirectory();
    registry = new Registry(`${run}/cells`);
    terminals = new Terminals(run, registry);
    const child = spawn('sleep', ['60'], { stdio: 'ignore' });
    await once(child, 'spawn');
    onTestFinished(() => void child.kill('SIGKILL'));
    cell = { ...registry.resolve(String(child.pid), 'notes'), terminal: { escape: 'C-\\' } };
    registry.put(cell);
  });

  it('knows a cell by name and id, and no other', async () => {
    const here = { state: 'here', cell: cell.id, name: 'notes', terminal: { escape: 'C-\\' } };
    expect([await state(), await state(cell.id), await state('nobody')]).toEqual([
      here,
      here,
      { state: 'unknown' },
    ]);
  });

  it('tells all who are attached, and waits until each has let go', async () => {
    const told = [terminals.attach(cell.id, ONE, signal), terminals.attach(cell.id, TWO, signal)];
    let free = false;
    const leaving = terminals.leave(cell, signal).then(() => {
      free = true;
    });
    await Promise.all(told);
    expect(await state()).toEqual({ state: 'leaving', cell: cell.id, name: 'notes' });
    expect(terminals.left(cell.id, ONE)).toEqual({ forced: false });
    expect(free).toBe(false);
    terminals.left(cell.id, TWO);
    await leaving;
    // Nobody comes in between.
    await terminals.attach(cell.id, ONE, signal);
    await expect(terminals.type(cell.id, Uint8Array.of(97))).rejects.toMatchObject({ code: 'BUSY' });
  });

  it('whoever goes away by itself is not waited for', async () => {
    const gone = new AbortController();
    const told = terminals.attach(cell.id, ONE, gone.signal);
    gone.abort();
    await told;
    await terminals.leave(cell, signal);
  });

  it('a question waits for what becomes of a cell: undone, it is here', async () => {
    await terminals.leave(cell, signal);
    const answer = terminals.state('notes', 10_000, signal);
    terminals.back(cell.id);
    expect(await answer).toMatchObject({ state: 'here' });
  });

  it.for([
    [TO, { state: 'gone', to: TO }],
    ['file', { state: 'stored' }],
    [undefined, { state: 'gone' }],
  ] as const)('bound for %j', async ([to, expected]) => {
    await terminals.leave(cell, signal);
    terminals.bound(cell.id, to);
    const answer = terminals.state(cell.id, 10_000, signal);
    registry.remove(cell.id);
    terminals.gone(cell);
    expect(await answer).toEqual({ ...expected, cell: cell.id, name: 'notes' });
    expect(await state()).toMatchObject(expected);
  });

  it('keeps the status and the last screen of a program that has ended, and no file', async () => {
    const { status, screen, socket } = terminals.files(cell.id);
    writeFileSync(status, '3 \n');
    writeFileSync(screen, 'bye\n');
    writeFileSync(socket, '');
    registry.remove(cell.id);
    terminals.ended(cell);
    terminals.ended(cell);
    expect(await state()).toEqual({
      state: 'ended',
      cell: cell.id,
      name: 'notes',
      status: 3,
      screen: 'bye\n',
    });
    expect([status, screen, socket].filter(existsSync)).toEqual([]);
  });

  it('refuses a cell without a terminal, and nobody has to wait for it', async () => {
    const bare = registry.resolve(String(process.pid), 'bare');
    registry.put(bare);
    await expect(terminals.attach(bare.id, ONE, signal)).rejects.toMatchObject({ code: 'NO_TERMINAL' });
    await expect(terminals.attach(TWO, ONE, signal)).rejects.toMatchObject({ code: 'NO_SUCH_TARGET' });
    await terminals.leave(bare, signal);
    expect(await state('bare')).toEqual({ state: 'here', cell: bare.id, name: 'bare' });
  });
});
