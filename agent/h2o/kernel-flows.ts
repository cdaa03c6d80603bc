/** Which flows this host's own kernel has, in its own namespace and in those of its cells: what a HELLO is checked against. */
import type { Flow } from '../address.ts';
import { type SocketIndex, socketIndex } from '../proc/socket-index.ts';
import { inetSockets } from '../proc/sockets.ts';

/** The tables may be this old when a HELLO is checked against them. */
const AGE_MS_MAX = 50;

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
  #namespaces: { readonly scope: number; readonly sockets: SocketIndex }[] = [];

  constructor(views: () => readonly NetworkView[]) {
    this.#views = views;
  }

  /** The scopes in which `flow`, as this host sees it, exists. */
  scopesOf(flow: Flow): readonly number[] {
    if (Date.now() - this.#readAt > AGE_MS_MAX) this.read();
    return this.#namespaces.filter(({ sockets }) => sockets.has(flow)).map(({ scope }) => scope);
  }

  /** Looks now. A flow that only waits out its end (TIME_WAIT) counts as ended. */
  read(): void {
    this.#namespaces = this.#views().map(({ pid, scope }) => {
      const alive = inetSockets(pid).filter(({ state }) => state !== 'listen' && state !== 'time-wait');
      return { scope, sockets: socketIndex(alive) };
    });
    this.#readAt = Date.now();
  }
}
