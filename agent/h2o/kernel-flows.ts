/** Which flows this host's own kernel has: what a HELLO is checked against. */
import { flowKey } from '../address.ts';
import { tcpSockets } from '../proc/sockets.ts';

/** A flow that the table has is believed this long: one that ends meanwhile does no harm. */
const FOUND_MS_MAX = 1_000;
/** One that it has not may have come up since, so the table is read anew; with 10,000 sockets that takes 0.1 s. */
const MISSING_MS_MAX = 50;
/** Reading takes this part of the time at most, whatever is asked for. */
const READING_SHARE = 1 / 4;

export class KernelFlows {
  #readAt = 0;
  #readingMs = 0;
  #keys = new Set<string>();

  /** `key`: flowKey of this host's view. */
  has(key: string): boolean {
    const age = performance.now() - this.#readAt;
    const limit = this.#keys.has(key)
      ? FOUND_MS_MAX
      : Math.max(MISSING_MS_MAX, this.#readingMs / READING_SHARE);
    if (age > limit || this.#readAt === 0) this.read();
    return this.#keys.has(key);
  }

  /** Every flow as it is now; one that only waits out its end (TIME_WAIT) counts as ended. */
  read(): ReadonlySet<string> {
    const started = performance.now();
    const alive = tcpSockets('self').filter(({ state }) => state !== 'listen' && state !== 'time-wait');
    this.#keys = new Set(alive.map((socket) => flowKey(socket)));
    this.#readAt = performance.now();
    this.#readingMs = this.#readAt - started;
    return this.#keys;
  }
}
