/**
 * Who exchanges datagrams with the unconnected sockets of kept processes: the kernel has that in no table, so the datapath's
 * programs note it for a while, again and again. They look at each packet meanwhile, so only where `osmosis keep` was asked.
 */
import { type Flow, flowKey, isSameEndpoint } from '../address.ts';
import type { Cell, Registry } from '../cell/registry.ts';
import type { Datapath } from '../datapath/datapath.ts';
import { ethernetDevices } from '../host/routes.ts';
import { LEARN_MS, unconnectedFlows } from '../migration/datagrams.ts';
import type { Tree } from '../proc/inspect.ts';
import { isUnconnected } from '../proc/socket-index.ts';
import { udpSockets } from '../proc/sockets.ts';
import type { KeptFlow } from './places.ts';

/** From one learning to the next, of all cells together. */
const LEARN_AGAIN_MS = 20_000;
/** Of one cell; who comes later is not noted. */
const CORRESPONDENTS_MAX = 4_096;

type Sockets = Pick<Tree, 'flows' | 'listeners'>;

type Needs = { readonly datapath: Datapath; readonly registry: Pick<Registry, 'isRegistered'> };

export class Correspondents {
  readonly #needs: Needs;
  readonly #stop = new AbortController();
  /** By cell id, by flowKey. */
  readonly #learnt = new Map<string, Map<string, Flow>>();
  readonly #notBefore = new Map<string, number>();

  constructor(needs: Needs) {
    this.#needs = needs;
  }

  stop(): void {
    this.#stop.abort();
  }

  /** The flows that are known so far and have a socket still; learns others beside it. */
  of(cell: Cell, sockets: Sockets): Pick<KeptFlow, 'protocol' | 'local' | 'remote' | 'isLoose'>[] {
    const ports = sockets.listeners.flatMap(({ protocol, port }) => (protocol === 'udp' ? [port] : []));
    if (cell.kept !== true || cell.link !== undefined || ports.length === 0) {
      this.#learnt.delete(cell.id);
      return [];
    }
    if ((this.#notBefore.get(cell.id) ?? 0) <= performance.now()) {
      this.#notBefore.set(cell.id, performance.now() + LEARN_AGAIN_MS);
      void this.#learn(cell, [...new Set(ports)]).catch(() => undefined);
    }
    const flows = unconnectedFlows(cell.pid, [...(this.#learnt.get(cell.id)?.values() ?? [])], sockets);
    this.#learnt.set(cell.id, new Map(flows.map((flow) => [flowKey(flow), flow])));
    const bound = udpSockets(cell.pid).filter((socket) => isUnconnected(socket));
    return flows.map((flow) => ({
      ...flow,
      isLoose: !bound.some(({ local }) => isSameEndpoint(local, flow.local)),
    }));
  }

  async #learn(cell: Cell, ports: readonly number[]): Promise<void> {
    const { datapath, registry } = this.#needs;
    try {
      const seen = await datapath.watch(ports, await ethernetDevices(), LEARN_MS, this.#stop.signal);
      const learnt = this.#learnt.get(cell.id) ?? new Map<string, Flow>();
      for (const { protocol, local, remote } of seen)
        if (learnt.size < CORRESPONDENTS_MAX)
          learnt.set(flowKey({ protocol, local, remote }), { protocol, local, remote });
      this.#learnt.set(cell.id, learnt);
    } finally {
      await datapath.removeIfEmpty();
      // Of cells that have ended, or gone.
      for (const id of this.#notBefore.keys()) if (!registry.isRegistered(id)) this.#forget(id);
    }
  }

  #forget(id: string): void {
    this.#learnt.delete(id);
    this.#notBefore.delete(id);
  }
}
