/** Looks for a cell whose host is silent, or that has gone to another. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { TerminalState } from '../../agent/control/terminal-protocol.ts';
import { asOsmosisError, OsmosisError } from '../../agent/error.ts';
import type { Found, Places } from './places.ts';

/** An agent is asked anew after this where the cell is still under way. */
const WAIT_MS = 10_000;
/** A host, or where the cell has gone to, is looked for so long. */
const SEARCH_MS_MAX = 60_000;
const SEARCH_EVERY_MS = 1_000;

type Searching = {
  readonly places: Places;
  /** One line of what goes on. */
  readonly say: (text: string) => void;
};

/** Its host's answer, once more; where the host is silent, somebody else's. */
export async function again(
  { host }: Found,
  cell: string,
  { places, say }: Searching,
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

/** A cell that has left `host`, where it is now. @throws OsmosisError NO_SUCH_TARGET */
export async function follow(
  host: string,
  { name, cell, to }: TerminalState & { state: 'gone' },
  { places, say }: Searching,
  signal: AbortSignal,
): Promise<Found> {
  const hint = to?.name ?? 'another host';
  say(`${name} goes from ${host} to ${hint}; what you type is kept`);
  const there = await findFor(SEARCH_MS_MAX, signal, async () => {
    const others = places.candidates(to).filter((each) => each !== host);
    return await places.find(others, cell, signal);
  });
  if (there === undefined) throw lostSight(name, hint);
  say(`${name} has moved from ${host} to ${there.host}`);
  return there;
}

export function lostSight(name: string, host: string): OsmosisError {
  return new OsmosisError(
    'NO_SUCH_TARGET',
    `${name} is not on ${host}, nor on any other host that could be asked; see osmosis ps, and attach with --on HOST`,
  );
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
