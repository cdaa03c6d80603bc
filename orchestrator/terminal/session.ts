/** One terminal of a cell at one host, from joining it to letting go of it. */
import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Size, TerminalState } from '../../agent/control/terminal-protocol.ts';
import { type ErrorCode, OsmosisError } from '../../agent/error.ts';
import { ESCAPE_MS, LET_GO } from '../../agent/terminal/tmux.ts';
import type { AgentClient } from '../agent-client.ts';
import type { HostConnection, HostTerminal } from '../ssh/host.ts';
import type { Keyboard } from './keyboard.ts';

/** The longest that setTimeout knows. */
const AS_LONG_AS_IT_LASTS_MS = 2 ** 31 - 1;
/** The host's agent takes off whoever has not let go before this. */
const LET_GO_MS_MAX = 5_000;
/** A key that is being typed, such as an arrow's three bytes, has come by then. */
const KEY_MS = 2 * ESCAPE_MS;

const LOST: ReadonlySet<ErrorCode> = new Set(['AGENT_UNREACHABLE', 'SSH_UNREACHABLE', 'TIMEOUT']);

/** A cell at a host. */
export type Place = {
  readonly connection: HostConnection;
  readonly agent: AgentClient;
  readonly cell: string;
};

export type Screen = {
  readonly kind: string;
  size(): Size;
  show(chunk: Buffer): void;
  /** Tells of new sizes, until the function that it answers with is called. */
  onResize(listener: (size: Size) => void): () => void;
  /** Whatever was drawn is forgotten: a client was lost that would have done so. */
  reset(): void;
};

/**
 * `left`: the cell is about to leave; `forced`: some keys may not have arrived. `closed`: the client has ended with that status,
 * 0 where somebody has let go of it. `lost`: so is the connection; `sure`: all keys have arrived all the same. `away`: the cell is
 * not here.
 */
export type SessionEnd =
  | { readonly end: 'left'; readonly forced: boolean }
  | { readonly end: 'closed'; readonly status: number }
  | { readonly end: 'lost'; readonly sure: boolean; readonly why?: OsmosisError }
  | { readonly end: 'away' };
const AWAY = { end: 'away' } as const;

/** @throws OsmosisError as the agent gives it: NO_TERMINAL, AGENT_UNREACHABLE, … */
export async function runSession(
  place: Place,
  screen: Screen,
  keyboard: Keyboard,
  signal: AbortSignal,
): Promise<SessionEnd> {
  const { agent, cell } = place;
  const attachment = randomBytes(16).toString('hex');
  const detached = new AbortController();
  const told = agent
    .call(
      'terminal.attach',
      { cell, attachment },
      { signal: detached.signal, timeoutMs: AS_LONG_AS_IT_LASTS_MS },
    )
    .then(
      () => undefined,
      (error: unknown) => error,
    );
  const leave = async (): Promise<boolean> => {
    const { forced } = await agent
      .call('terminal.left', { cell, attachment }, { timeoutMs: LET_GO_MS_MAX })
      .catch(() => ({ forced: false }));
    detached.abort();
    return forced;
  };
  try {
    // The answer comes after the agent has noted who is attached.
    const state: TerminalState = await agent.call('terminal.state', { target: cell }, { signal });
    if (state.state === 'here' && state.terminal === undefined) throw await told;
    const end = state.state === 'here' ? await joined(place, screen, keyboard, told, signal) : AWAY;
    const forced = await leave();
    return end.end === 'left' ? { end: 'left', forced } : end;
  } catch (error) {
    await leave();
    throw error;
  }
}

async function joined(
  place: Place,
  screen: Screen,
  keyboard: Keyboard,
  told: Promise<unknown>,
  signal: AbortSignal,
): Promise<SessionEnd> {
  const { connection, cell } = place;
  let begun = false;
  let terminal: HostTerminal | undefined;
  const show = (chunk: Buffer) => {
    // It draws once it reads as well.
    if (!begun && terminal !== undefined) keyboard.passTo(terminal.write);
    begun ||= terminal !== undefined;
    screen.show(chunk);
  };
  terminal = await connection.openTerminal({ cell, size: screen.size(), kind: screen.kind, show });
  const stopResizing = screen.onResize((size) => terminal.resize(size));
  const { promise: aborted, resolve } = Promise.withResolvers<'aborted'>();
  const onAbort = () => resolve('aborted');
  signal.addEventListener('abort', onAbort, { once: true });
  if (signal.aborted) onAbort();
  try {
    if (terminal.draws) {
      keyboard.leaveAlone();
      await typeKept(place, keyboard, signal);
    }
    const first = await Promise.race([told.then(() => 'told' as const), terminal.done, aborted]);
    if (first === 'told') {
      await letGo(terminal, keyboard);
      const failure = await told;
      if (failure === undefined) return { end: 'left', forced: false };
      // The agent is gone, or the way to it; the terminal is not.
      if (isLost(failure)) return { end: 'lost', sure: true };
      throw failure;
    }
    keyboard.keep();
    if (first === 'aborted') await closed(terminal);
    if (typeof first !== 'number') screen.reset();
    return typeof first === 'number' ? { end: 'closed', status: first } : { end: 'lost', sure: false };
  } catch (error) {
    // Its client would go on reading what is typed here.
    keyboard.keep();
    await closed(terminal);
    if (isLost(error)) return { end: 'lost', sure: false, why: error };
    throw error;
  } finally {
    stopResizing();
    signal.removeEventListener('abort', onAbort);
  }
}

/** Where the client of the terminal has this command's own. */
async function typeKept({ agent, cell }: Place, keyboard: Keyboard, signal: AbortSignal): Promise<void> {
  const keys = keyboard.take();
  if (keys.length === 0 || signal.aborted) return;
  try {
    await agent.call('terminal.type', { cell, keys }, { signal });
  } catch (error) {
    // It leaves just now, and none of them was typed: they are for where it goes.
    if (!(error instanceof OsmosisError && error.code === 'BUSY')) throw error;
    keyboard.giveBack(keys);
  }
}

export function isLost(thrown: unknown): thrown is OsmosisError {
  return thrown instanceof OsmosisError && LOST.has(thrown.code);
}

/** What was typed until now is the last that goes there, and arrives. */
async function letGo(terminal: HostTerminal, keyboard: Keyboard): Promise<void> {
  const end = keyboard.keep();
  if (terminal.draws) await closed(terminal);
  else {
    // A lone Escape that was typed last would make another key of what follows.
    await sleep(KEY_MS);
    terminal.write(Buffer.concat([end, Buffer.from(LET_GO)]));
    await within(LET_GO_MS_MAX, terminal.done);
    terminal.close();
  }
}

/** Its client gives the terminal back as it was. */
async function closed(terminal: HostTerminal): Promise<void> {
  terminal.close();
  await within(LET_GO_MS_MAX, terminal.done);
}

async function within(limit_ms: number, done: Promise<unknown>): Promise<void> {
  const limit = new AbortController();
  await Promise.race([done, sleep(limit_ms, undefined, { signal: limit.signal }).catch(() => {})]);
  limit.abort();
}
