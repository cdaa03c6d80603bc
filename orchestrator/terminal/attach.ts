/** Shows the terminal of a cell here, wherever the cell goes, until somebody lets go of it or its program ends. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Terminal, TerminalState } from '../../agent/control/terminal-protocol.ts';
import { asOsmosisError, OsmosisError } from '../../agent/error.ts';
import type { Keyboard } from './keyboard.ts';
import type { Found, Places } from './places.ts';
import { again, follow, lostSight } from './search.ts';
import { isLost, runSession, type Screen, type SessionEnd } from './session.ts';

/** A session that ends at once although the cell is there is begun anew so often. */
const JOINS_MAX = 3;
/** One that was lost before this was over at once, and the next waits. */
const JOINED_MS = 5_000;
const REJOIN_MS = 500;
/** Hosts that send on to the next one, in a row. */
const HOPS_MAX = 32;

export type Attached =
  | { readonly ended: 'detached' | 'suspended'; readonly host: string; readonly name: string }
  /** `screen`: the last of what it has written. */
  | {
      readonly ended: 'exited';
      readonly host: string;
      readonly name: string;
      readonly status: number;
      readonly screen: string;
    };

export type Attaching = {
  readonly places: Places;
  readonly screen: Screen;
  readonly keyboard: Keyboard;
  /** One line of what goes on, in place of the last one. */
  readonly say: (text: string) => void;
  readonly signal: AbortSignal;
};

/** One command's way from host to host. */
type Way = Attaching & {
  /** Fires where somebody lets go, by the escape key or from outside. */
  readonly until: AbortSignal;
  /** The escape key was typed. */
  readonly left: AbortController;
  /** Sessions that ended at once, in a row. */
  joins: number;
};

/** @throws OsmosisError NO_TERMINAL, NO_SUCH_TARGET, CELL, INTERRUPTED, or what keeps its host from being reached */
export async function attach(first: Found, attaching: Attaching): Promise<Attached> {
  const { say, signal } = attaching;
  const left = new AbortController();
  const until = AbortSignal.any([signal, left.signal]);
  const way: Way = { ...attaching, left, until, joins: 0 };
  let found = first;
  let hops = 0;
  let name = 'the cell';
  try {
    for (;;) {
      const { host, state } = found;
      if (state.state === 'unknown') throw lostSight(name, host);
      name = state.name;
      switch (state.state) {
        case 'here': {
          hops = 0;
          const next = await show(found, state, way);
          if (next === 'detached') return { ended: 'detached', host, name };
          found = next;
          break;
        }
        case 'leaving':
          say(`${name} is about to leave ${host}; what you type is kept`);
          found = await again(found, state.cell, way, until);
          break;
        case 'gone':
          if (++hops > HOPS_MAX) throw lostSight(name, host);
          found = await follow(host, state, way, until);
          break;
        case 'stored':
          return { ended: 'suspended', host, name };
        case 'ended':
          return { ended: 'exited', host, name, status: state.status, screen: state.screen };
      }
    }
  } catch (thrown) {
    if (left.signal.aborted) return { ended: 'detached', host: found.host, name };
    if (signal.aborted)
      throw new OsmosisError('INTERRUPTED', `interrupted: let go of ${name}, which goes on`, {
        cause: thrown,
      });
    throw asOsmosisError(thrown);
  }
}

/** As long as it is there, and shown; then what its host says of it. */
async function show(
  found: Found,
  { cell, name, terminal }: TerminalState & { state: 'here' },
  way: Way,
): Promise<Found | 'detached'> {
  const { screen, keyboard, left, until, signal } = way;
  const { host, place } = found;
  keyboard.leaveBy(escapeOf(terminal, name), () => left.abort());
  const began = performance.now();
  const end = await runSession({ ...place, cell }, screen, keyboard, until).catch(orLost);
  const isShort = performance.now() - began < JOINED_MS;
  if (left.signal.aborted) return 'detached';
  signal.throwIfAborted();
  tellOf(end, host, name, way);
  const next = await again(found, cell, way, until);
  if (next.state.state !== 'here') {
    way.joins = 0;
    return next;
  }
  if (end.end === 'closed' && end.status === 0) return 'detached';
  const isFailed = end.end === 'closed' || (end.end === 'lost' && isShort);
  way.joins = isFailed ? way.joins + 1 : 0;
  if (way.joins >= JOINS_MAX) throw notJoined(name, host, end);
  if (isFailed && end.end === 'lost') await sleep(REJOIN_MS, undefined, { signal: until });
  return next;
}

function tellOf(end: SessionEnd, host: string, name: string, { say, keyboard }: Attaching): void {
  if (end.end === 'left') say(`${name} is leaving ${host}; what you type is kept`);
  if (end.end === 'lost' && !end.sure)
    say(`the connection to ${host} was lost: what was typed last may not have arrived`);
  if (end.end === 'left' && end.forced) say(`${host} did not wait: what was typed last may not have arrived`);
  const dropped = keyboard.takeDropped();
  if (dropped > 0)
    say(`${dropped} bytes that were typed meanwhile were dropped: there was no room to keep them`);
}

/** A host that is lost meanwhile is one that the cell has to be looked for elsewhere. */
function orLost(thrown: unknown): SessionEnd {
  if (isLost(thrown)) return { end: 'lost', sure: true, why: thrown };
  throw thrown;
}

function escapeOf(terminal: Terminal | undefined, name: string): string {
  if (terminal !== undefined) return terminal.escape;
  throw new OsmosisError(
    'NO_TERMINAL',
    `the cell ${name} has no terminal: it was not started with osmosis run -t. Nothing was touched.`,
  );
}

function notJoined(name: string, host: string, end: SessionEnd): OsmosisError {
  if (end.end === 'lost' && end.why !== undefined) return end.why;
  const how = end.end === 'closed' ? `status ${end.status}` : 'the connection with it is lost each time';
  return new OsmosisError(
    'CELL',
    `the terminal of ${name} on ${host} can't be joined (${how}); try there: osmosis attach ${name}`,
  );
}
