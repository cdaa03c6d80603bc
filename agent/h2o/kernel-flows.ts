/** Which flows this host's own kernel has, in its own namespace and in those of its cells: what a HELLO is checked against. */
import { type Flow, flowKey } from '../address.ts';
import { tcpSockets } from '../proc/sockets.ts';

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
  /** flowKey → scopes that have it. */
  #scopes = new Map<string, number[]>();

  constructor(views: () => readonly NetworkView[]) {
    this.#views = views;
  }

  /** The scopes in which `flow`, as this host sees it, exists. */
  scopesOf(flow: Flow): readonly number[] {
    if (Date.now() - this.#readAt > AGE_MS_MAX) this.read();
    return this.#scopes.get(flowKey(flow)) ?? [];
  }

  /** Looks now. A flow that only waits out its end (TIME_WAIT) counts as ended. */
  read(): void {
    this.#scopes = new Map();
    for (const { pid, scope } of this.#views()) {
      for (const socket of tcpSockets(pid)) {
        if (socket.state === 'listen' || socket.state === 'time-wait') continue;
        const key = flowKey(socket);
        const scopes = this.#scopes.get(key);
        if (scopes === undefined) this.#scopes.set(key, [scope]);
        else scopes.push(scope);
      }
    }
    this.#readAt = Date.now();
  }
}
