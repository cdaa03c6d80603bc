/** Which flows this host's own kernel has: what a HELLO is checked against. */
import { flowKey } from '../address.ts';
import { tcpSockets } from '../proc/sockets.ts';

/** The table may be this old when a HELLO is checked against it. */
const AGE_MS_MAX = 50;

export class KernelFlows {
  #readAt = 0;
  #keys = new Set<string>();

  /** `key`: flowKey of this host's view. */
  has(key: string): boolean {
    if (Date.now() - this.#readAt > AGE_MS_MAX) this.read();
    return this.#keys.has(key);
  }

  /** Every flow as it is now; one that only waits out its end (TIME_WAIT) counts as ended. */
  read(): ReadonlySet<string> {
    const alive = tcpSockets('self').filter(({ state }) => state !== 'listen' && state !== 'time-wait');
    this.#keys = new Set(alive.map((socket) => flowKey(socket)));
    this.#readAt = Date.now();
    return this.#keys;
  }
}
