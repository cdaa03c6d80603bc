/** What failed because connections changed meanwhile is tried again. */
import { setTimeout as sleep } from 'node:timers/promises';
import { OsmosisError } from '../agent/error.ts';
import type { MigrationEvent } from './events.ts';

/** Connections that come up at the wrong moment, other ends that are being moved themselves: try again, this often in all. */
const TRIES_MAX = 6;
/** Waits between tries: at random, so that two that are in each other's way do not meet again, and longer each time. */
const AGAIN_MS_FIRST = 250;
const AGAIN_MS_MAX = 2_000;

type Options = { readonly emit: (event: MigrationEvent) => void; readonly signal: AbortSignal };

export async function withTries<T>({ emit, signal }: Options, once: () => Promise<T>): Promise<T> {
  for (let tries = 1; ; tries++) {
    try {
      return await once();
    } catch (error) {
      const again = error instanceof OsmosisError && error.code === 'FLOWS_CHANGED' && tries < TRIES_MAX;
      if (!again || signal.aborted) throw error;
      emit({
        event: 'note',
        level: 'info',
        message: `${error.message} (try ${tries + 1} of ${TRIES_MAX})`,
      });
      const wait = Math.min(AGAIN_MS_FIRST * 2 ** tries, AGAIN_MS_MAX);
      await sleep(wait * Math.random(), undefined, { signal }).catch(() => {
        throw error;
      });
    }
  }
}
