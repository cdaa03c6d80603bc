/** The terminals of this host's cells: who is attached, who has to let go because a cell leaves, and where it has gone. */
import { existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { execa } from 'execa';
import type { Cell, Registry } from '../cell/registry.ts';
import type { Destination, TerminalState } from '../control/terminal-protocol.ts';
import { OsmosisError } from '../error.ts';
import { descriptorsOf } from '../proc/descriptors.ts';
import { isAlive, startTicks } from '../proc/tree.ts';
import {
  detachArgv,
  parseStatus,
  type TerminalFiles,
  terminalDirectory,
  terminalFiles,
  typeArgv,
} from './tmux.ts';

/** Whoever is attached lets go within this, over a slow line too, or is taken off. The process runs meanwhile. */
const LEAVE_MS_MAX = 1_500;
/** A client that was taken off is gone within this. */
const OFF_MS_MAX = 1_000;
const LOOK_EVERY_MS = 3;
const TMUX_MS_MAX = 5_000;
/** Cells that have left or ended are remembered for so long, the latest so many. */
const PAST_MS_MAX = 60 * 60 * 1_000;
const PAST_MAX = 256;
const ATTACHMENTS_MAX = 64;
/** A command of tmux's has 16 KiB, and each of these is a word. */
const KEYS_AT_ONCE_MAX = 4_096;
/** Of the last screen of a program that has ended. */
const SCREEN_BYTES_MAX = 64 * 1_024;
/** A terminal that somebody uses, not the other end of one. */
const TERMINAL = /^\/dev\/(pts\/\d+|tty\w+)$/;
/** Where the status of a program that has ended is not known. */
const STATUS_UNKNOWN = 255;

type Past = Extract<TerminalState, { state: 'gone' | 'stored' | 'ended' }>;
type Leaving = { readonly over: Promise<void>; readonly end: () => void };

export class Terminals {
  readonly #run: string;
  readonly #registry: Registry;
  /** By cell and attachment: tells it to let go. */
  readonly #attached = new Map<string, Map<string, () => void>>();
  readonly #leaving = new Map<string, Leaving>();
  /** Attachments that were taken off before they had let go. */
  readonly #forced = new Set<string>();
  readonly #past = new Map<string, { readonly at: number; readonly what: Past }>();
  /** Suspended ones, and where the others go. */
  readonly #bound = new Map<string, Destination | 'file'>();

  constructor(run: string, registry: Registry) {
    this.#run = run;
    this.#registry = registry;
    mkdirSync(terminalDirectory(run), { recursive: true, mode: 0o700 });
  }

  files(cell: string): TerminalFiles {
    return terminalFiles(this.#run, cell);
  }

  /** What has become of the cell that is called so, or has this id; where it is about to leave, after `wait_ms` at most. */
  async state(target: string, wait_ms: number, signal: AbortSignal): Promise<TerminalState> {
    const find = () => this.#registry.all().find((one) => one.name === target || one.id === target);
    const leaving = this.#leaving.get(find()?.id ?? '');
    if (leaving !== undefined)
      await Promise.race([leaving.over, sleep(wait_ms, undefined, { ref: false, signal }).catch(() => {})]);
    const cell = find();
    if (cell === undefined) return this.#pastOf(target) ?? { state: 'unknown' };
    const named = { cell: cell.id, name: cell.name };
    if (this.#leaving.has(cell.id)) return { state: 'leaving', ...named };
    if (isAlive(cell.pid) && startTicks(cell.pid) === cell.ticks)
      return { state: 'here', ...named, ...(cell.terminal && { terminal: cell.terminal }) };
    this.ended(cell);
    return this.#pastOf(cell.id) ?? { state: 'unknown' };
  }

  /** Resolves when the cell is about to leave. @throws OsmosisError NO_TERMINAL, NO_SUCH_TARGET, BUSY, INTERRUPTED */
  async attach(id: string, attachment: string, signal: AbortSignal): Promise<void> {
    terminalOf(this.#registry.get(id));
    if (this.#leaving.has(id)) return;
    const attached = this.#attached.get(id) ?? new Map<string, () => void>();
    if (attached.size >= ATTACHMENTS_MAX)
      throw new OsmosisError('BUSY', `${ATTACHMENTS_MAX} are attached to this cell already`);
    this.#attached.set(id, attached);
    const { promise, resolve } = Promise.withResolvers<void>();
    attached.set(attachment, resolve);
    const onAbort = () => {
      this.#forget(id, attachment);
      resolve();
    };
    signal.addEventListener('abort', onAbort, { once: true });
    await promise;
    signal.removeEventListener('abort', onAbort);
  }

  left(id: string, attachment: string): { forced: boolean } {
    this.#forget(id, attachment);
    return { forced: this.#forced.delete(attachment) };
  }

  #forget(id: string, attachment: string): void {
    const attached = this.#attached.get(id);
    attached?.delete(attachment);
    if (attached?.size === 0) this.#attached.delete(id);
  }

  async type(id: string, keys: Uint8Array): Promise<void> {
    const cell = terminalOf(this.#registry.get(id));
    if (this.#leaving.has(id))
      throw new OsmosisError('BUSY', 'the cell is about to leave this host: type there');
    for (let at = 0; at < keys.length; at += KEYS_AT_ONCE_MAX)
      await tmux(typeArgv(this.files(cell.id).socket, keys.subarray(at, at + KEYS_AT_ONCE_MAX)));
  }

  /**
   * Before the freeze: every client lets go of the server, which else would have an end of theirs. What each has typed until
   * then is in the program's terminal. Whoever comes from here on has to wait.
   * @throws OsmosisError CELL where somebody does not let go
   */
  async leave(cell: Cell, signal: AbortSignal): Promise<void> {
    if (cell.terminal === undefined) return;
    const { promise: over, resolve: end } = Promise.withResolvers<void>();
    this.#leaving.set(cell.id, { over, end });
    const tellAll = [...(this.#attached.get(cell.id)?.values() ?? [])];
    for (const tell of tellAll) tell();
    const isFree = () => !this.#attached.has(cell.id) && !hasClients(cell);
    if (await isTrueWithin(isFree, LEAVE_MS_MAX, signal)) return;
    for (const attachment of this.#attached.get(cell.id)?.keys() ?? []) this.#forced.add(attachment);
    this.#attached.delete(cell.id);
    await tmux(detachArgv(this.files(cell.id).socket), signal);
    if (await isTrueWithin(() => !hasClients(cell), OFF_MS_MAX, signal)) return;
    throw new OsmosisError(
      'CELL',
      `the terminal of ${cell.name} has a client that does not let go; it goes on at the source. Detach that one, and try again.`,
      { phase: 'freeze' },
    );
  }

  /** It is decided where the cell goes. */
  bound(id: string, to: Destination | 'file' | undefined): void {
    if (to !== undefined) this.#bound.set(id, to);
  }

  /** It did not leave: whoever has let go comes back. */
  back(id: string): void {
    this.#bound.delete(id);
    this.#settle(id);
  }

  /** It runs elsewhere, or is in a file. */
  gone(cell: Cell): void {
    const to = this.#bound.get(cell.id);
    this.#bound.delete(cell.id);
    const named = { cell: cell.id, name: cell.name };
    if (cell.terminal !== undefined) this.clear(cell.id);
    this.#remember(
      to === 'file' ? { state: 'stored', ...named } : { state: 'gone', ...named, ...(to && { to }) },
    );
    this.#settle(cell.id);
  }

  /** Its program has ended. */
  ended(cell: Cell): void {
    if (cell.terminal === undefined) return;
    const files = this.files(cell.id);
    const known = this.#past.get(cell.id)?.what;
    if (known?.state === 'ended' && !existsSync(files.status)) return;
    const status = parseStatus(read(files.status)) ?? STATUS_UNKNOWN;
    const screen = read(files.screen).slice(-SCREEN_BYTES_MAX);
    this.#remember({ state: 'ended', cell: cell.id, name: cell.name, status, screen });
    this.clear(cell.id);
  }

  /** What a terminal leaves in the file system. */
  clear(id: string): void {
    for (const file of Object.values(this.files(id))) rmSync(file, { force: true });
  }

  #settle(id: string): void {
    this.#leaving.get(id)?.end();
    this.#leaving.delete(id);
  }

  #remember(what: Past): void {
    this.#past.delete(what.cell);
    this.#past.set(what.cell, { at: performance.now(), what });
    for (const [id, { at }] of this.#past)
      if (this.#past.size > PAST_MAX || performance.now() - at > PAST_MS_MAX) this.#past.delete(id);
  }

  #pastOf(target: string): Past | undefined {
    const all = [...this.#past.values()].filter(({ at }) => performance.now() - at <= PAST_MS_MAX);
    // The latest of a name.
    return all.findLast(({ what }) => what.cell === target || what.name === target)?.what;
  }
}

function terminalOf(cell: Cell | undefined): Cell {
  if (cell === undefined)
    throw new OsmosisError('NO_SUCH_TARGET', 'the cell is not on this host; see osmosis ps');
  if (cell.terminal !== undefined) return cell;
  throw new OsmosisError(
    'NO_TERMINAL',
    `the cell ${cell.name} has no terminal: it was not started with osmosis run -t. Nothing was touched.`,
  );
}

/** A server has the terminal of each client open, and a connection with it; of its own it has the other ends, and one listener. */
function hasClients({ pid }: Cell): boolean {
  const links = descriptorsOf(pid).map(({ link }) => link);
  const sockets = links.filter((link) => link.startsWith('socket:'));
  return sockets.length > 1 || links.some((link) => TERMINAL.test(link));
}

async function isTrueWithin(look: () => boolean, limit_ms: number, signal: AbortSignal): Promise<boolean> {
  for (const began = performance.now(); performance.now() - began < limit_ms; ) {
    if (look()) return true;
    await sleep(LOOK_EVERY_MS);
    signal.throwIfAborted();
  }
  return look();
}

/** @throws OsmosisError CELL */
export async function tmux(
  [file = '', ...args]: readonly string[],
  signal = AbortSignal.timeout(TMUX_MS_MAX),
): Promise<void> {
  const { failed, stderr, code } = await execa(file, args, {
    reject: false,
    timeout: TMUX_MS_MAX,
    stdin: 'ignore',
    cancelSignal: signal,
  });
  if (code === 'ENOENT')
    throw new OsmosisError('CELL', 'tmux, which makes terminals, is not installed on this host: install it');
  if (failed) throw new OsmosisError('CELL', `tmux: ${stderr.trim() || 'failed'}; see the agent's log`);
}

function read(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}
