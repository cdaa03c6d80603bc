/** Which flows this host's own kernel has, in its own namespace and in those of its cells: what a HELLO is checked against. */
import type { Flow } from '../address.ts';
import { type SocketIndex, socketIndex } from '../proc/socket-index.ts';
import { inetSockets } from '../proc/sockets.ts';

/** A flow that the tables have is believed this long: one that ends meanwhile does no harm. */
const FOUND_MS_MAX = 1_000;
/** One that they have not may have come up since, so they are read anew; with 10,000 sockets that takes 0.1 s. */
const MISSING_MS_MAX = 50;
/** Reading takes this part of the time at most, whatever is asked for. */
const READING_SHARE = 1 / 4;

/** One network namespace of this host. */
export type NetworkView = {
  /** A process in it. */
  readonly pid: number | 'self';
  /** As in the datapath: 0 for the host's own, otherwise the host end of the cell's veth. */
  readonly scope: number;
};

export class KernelFlows {
  readonly #views: () => readonly NetworkView[];
  #readAt = 0;
  #readingMs = 0;
  #namespaces: { readonly scope: number; readonly sockets: SocketIndex }[] = [];

  constructor(views: () => readonly NetworkView[]) {
    this.#views = views;
  }

  /** The scopes in which `flow`, as this host sees it, exists. */
  scopesOf(flow: Flow): readonly number[] {
    const found = this.#lookUp(flow);
    const age = performance.now() - this.#readAt;
    const limit = found.length > 0 ? FOUND_MS_MAX : Math.max(MISSING_MS_MAX, this.#readingMs / READING_SHARE);
    if (age <= limit && this.#readAt !== 0) return found;
    this.read();
    return this.#lookUp(flow);
  }

  #lookUp(flow: Flow): number[] {
    return this.#namespaces.filter(({ sockets }) => sockets.has(flow)).map(({ scope }) => scope);
  }

  /** Looks now. A flow that only waits out its end (TIME_WAIT) counts as ended. */
  read(): void {
    const started = performance.now();
    this.#namespaces = this.#views().map(({ pid, scope }) => {
      const alive = inetSockets(pid).filter(({ state }) => state !== 'listen' && state !== 'time-wait');
      return { scope, sockets: socketIndex(alive) };
    });
    this.#readAt = performance.now();
    this.#readingMs = this.#readAt - started;
  }
}
