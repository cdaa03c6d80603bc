/** Labels of endpoints at home that this host has lost the address of: one an endpoint, whatever the number of its peers. */
import { endpointKey, type Protocol } from '../address.ts';
import type { Labels } from '../cell/labels.ts';
import type { Lane } from './lane.ts';
import { isPlain, type KeptFlow, movedFlows, type Wanted } from './places.ts';

type Label = { readonly protocol: Protocol; readonly port: number };
type Lanes = Iterable<Pick<Lane, 'cell' | 'flows'>>;

export class DrawnLabels {
  readonly #labels: Pick<Labels, 'draw' | 'release' | 'take'>;
  /** A cell with a network of its own has its labels in its record. */
  readonly #isAtHome: (cell: string) => boolean;
  /** By cell and endpoint. */
  #drawn = new Map<string, Label>();

  constructor(labels: Pick<Labels, 'draw' | 'release' | 'take'>, isAtHome: (cell: string) => boolean) {
    this.#labels = labels;
    this.#isAtHome = isAtHome;
  }

  /** Drawn by an agent before this one. */
  take(lanes: Lanes): void {
    this.#drawn = this.#inUse(lanes);
    this.#labels.take(this.#drawn.values());
  }

  /** The flows that move, each with its new place. @throws OsmosisError LABELS_EXHAUSTED */
  moved(cell: string, flows: readonly KeptFlow[], wanted: Wanted): KeptFlow[] {
    const ownerOf = (endpoint: string) => `${cell} ${endpoint}`;
    const unlabelled = new Set<string>();
    movedFlows(flows, wanted, (endpoint) => {
      if (!this.#drawn.has(ownerOf(endpoint))) unlabelled.add(endpoint);
      return 0;
    });
    // All at once: each draw looks at every socket of the host.
    const protocols = [...unlabelled].map(protocolOf);
    const ports = protocols.length === 0 ? [] : this.#labels.draw(protocols);
    [...unlabelled].forEach((endpoint, index) => {
      this.#drawn.set(ownerOf(endpoint), { protocol: protocolOf(endpoint), port: ports[index] ?? 0 });
    });
    return movedFlows(flows, wanted, (endpoint) => this.#drawn.get(ownerOf(endpoint))?.port ?? 0);
  }

  /** Those that no flow goes by any more. */
  release(lanes: Lanes): void {
    const now = this.#inUse(lanes);
    const gone = [...this.#drawn].flatMap(([owner, label]) => (now.has(owner) ? [] : [label]));
    if (gone.length > 0) this.#labels.release(gone);
    this.#drawn = now;
  }

  #inUse(lanes: Lanes): Map<string, Label> {
    const drawn = new Map<string, Label>();
    for (const { cell, flows } of lanes) {
      if (!this.#isAtHome(cell)) continue;
      for (const flow of flows.values())
        if (!isPlain(flow) && !flow.isLoose)
          drawn.set(`${cell} ${endpointKey(flow.protocol, flow.local)}`, {
            protocol: flow.protocol,
            port: flow.wireLocal.port,
          });
    }
    return drawn;
  }
}

/** Of an endpointKey. */
function protocolOf(endpoint: string): Protocol {
  return endpoint.startsWith('udp ') ? 'udp' : 'tcp';
}
