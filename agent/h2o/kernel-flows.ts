/** Which flows this host's own kernel has: what a HELLO is checked against. */
import type { Flow } from '../address.ts';
import { type SocketIndex, socketIndex } from '../proc/socket-index.ts';
import { inetSockets } from '../proc/sockets.ts';

/** The table may be this old when a HELLO is checked against it. */
const AGE_MS_MAX = 50;

export class KernelFlows {
  #readAt = 0;
  #index: SocketIndex = socketIndex([]);

  /** `flow`: this host's view. */
  has(flow: Flow): boolean {
    if (Date.now() - this.#readAt > AGE_MS_MAX) this.read();
    return this.#index.has(flow);
  }

  /** Every flow as it is now; one that only waits out its end (TIME_WAIT) counts as ended. */
  read(): SocketIndex {
    const alive = inetSockets('self').filter(({ state }) => state !== 'listen' && state !== 'time-wait');
    this.#index = socketIndex(alive);
    this.#readAt = Date.now();
    return this.#index;
  }
}
