/** Shows the terminal of a cell here, wherever the cell goes, until somebody lets go of it or its program ends. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Terminal } from '../../agent/control/terminal-protocol.ts';
import { asOsmosisError, OsmosisError } from '../../agent/error.ts';
import type { Keyboard } from './keyboard.ts';
import type { Found, Places } from './places.ts';
import { isLost, runSession, type Screen, type SessionEnd } from './session.ts';

/** An agent is asked anew after this where the cell is still under way. */
const WAIT_MS = 10_000;
/** A host, or where the cell has gone to, is looked for so long. */
const SEARCH_MS_MAX = 60_000;
const SEARCH_EVERY_MS = 1_000;
/** A client that ends at once although the cell is there is started anew so often. */
const JOINS_MAX = 3;
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

/** @throws OsmosisError NO_TERMINAL, NO_SUCH_TARGET, CELL, INTERRUPTED, or what keeps its host from being reached */
export async function attach(first: Found, attaching: Attaching): Promise<Attached> {
  const { places, keyboard, say, signal } = attaching;
  const left = new AbortController();
  const until = AbortSignal.any([signal, left.signal]);
  let found = first;
  let [joins, hops] = [0, 0];
  let name = 'the cell';
  try {
    for (;;) {
      const { host, state } = found;
      if (state.state === 'unknown') throw lostSight(name, host);
      name = state.name;
      switch (state.state) {
        case 'here': {
          hops = 0;
          keyboard.leaveBy(escapeOf(state.terminal, name), () => left.abort());
          const end = await runSession(
            { ...found.place, cell: state.cell },
            attaching.screen,
            keyboard,
            until,
          ).catch(orLost);
          if (left.signal.aborted) return { ended: 'detached', host, name };
          signal.throwIfAborted();
          tellOf(end, host, name, attaching);
          const next = await again(found, state.cell, attaching, until);
          if (end.end === 'closed' && next.state.state === 'here') {
            if (end.status === 0) return { ended: 'detached', host, name };
            if (++joins >= JOINS_MAX) throw notJoined(name, host, end.status);
          } else joins = 0;
          found = next;
          break;
        }
        case 'leaving':
          say(`${name} is about to leave ${host}; what you type is kept`);
          found = await again(found, state.cell, attaching, until);
          break;
        case 'gone': {
          if (++hops > HOPS_MAX) throw lostSight(name, host);
          const hint = state.to?.name ?? 'another host';
          say(`${name} goes from ${host} to ${hint}; what you type is kept`);
          const there = await findFor(SEARCH_MS_MAX, until, async () => {
            const others = places.candidates(state.to).filter((each) => each !== host);
            return await places.find(others, state.cell, until);
          });
          if (there === undefined) throw lostSight(name, hint);
          say(`${name} has moved from ${host} to ${there.host}`);
          found = there;
          break;
        }
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

/** Its host's answer, once more; where the host is silent, somebody else's. */
async function again(
  { host }: Found,
  cell: string,
  { places, say }: Attaching,
  signal: AbortSignal,
): Promise<Found> {
  let last: unknown;
  const found = await findFor(SEARCH_MS_MAX, signal, async () => {
    try {
      return await places.ask(host, cell, WAIT_MS, signal);
    } catch (thrown) {
      last = thrown;
      signal.throwIfAborted();
      say(`${host} does not answer (${asOsmosisError(thrown).message}); looking for the cell`);
      return await places.find(places.candidates(undefined), cell, signal);
    }
  });
  if (found === undefined) throw last;
  return found;
}

async function findFor(
  limit_ms: number,
  signal: AbortSignal,
  look: () => Promise<Found | undefined>,
): Promise<Found | undefined> {
  for (const began = performance.now(); ; ) {
    const found = await look();
    if (found !== undefined || performance.now() - began > limit_ms) return found;
    await sleep(SEARCH_EVERY_MS, undefined, { signal });
  }
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
  if (isLost(thrown)) return { end: 'lost', sure: true };
  throw thrown;
}

function escapeOf(terminal: Terminal | undefined, name: string): string {
  if (terminal !== undefined) return terminal.escape;
  throw new OsmosisError(
    'NO_TERMINAL',
    `the cell ${name} has no terminal: it was not started with osmosis run -t. Nothing was touched.`,
  );
}

function notJoined(name: string, host: string, status: number): OsmosisError {
  return new OsmosisError(
    'CELL',
    `the terminal of ${name} on ${host} can't be joined (status ${status}); try there: osmosis attach ${name}`,
  );
}

function lostSight(name: string, host: string): OsmosisError {
  return new OsmosisError(
    'NO_SUCH_TARGET',
    `${name} is not on ${host}, nor on any other host that could be asked; see osmosis ps, and attach with --on HOST`,
  );
}
