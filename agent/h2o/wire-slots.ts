/** Wire endpoints with the device that leads to them. Routes are asked for once an address and a while: 10,000 flows have one place to go. */
import type { Endpoint } from '../address.ts';
import type { Datapath } from '../datapath/datapath.ts';
import type { WireSlot } from '../datapath/model.ts';
import { routeTo } from '../host/routes.ts';

/** Asking for a route, and whether its device is attached, starts seven programs. */
const ROUTE_AGE_MS_MAX = 2_000;

export class WireSlots {
  readonly #datapath: Datapath;
  readonly #routes = new Map<string, { at: number; removals: number; ifindex: number }>();

  constructor(datapath: Datapath) {
    this.#datapath = datapath;
  }

  /** Attaches the device that leads there. */
  async of(endpoint: Endpoint): Promise<WireSlot> {
    const known = this.#routes.get(endpoint.address);
    const isAttached = known?.removals === this.#datapath.removals;
    if (known !== undefined && isAttached && Date.now() - known.at < ROUTE_AGE_MS_MAX)
      return { endpoint, ifindex: known.ifindex };
    const { ifindex, device } = await routeTo(endpoint.address);
    await this.#datapath.attachDevice(device);
    this.#routes.set(endpoint.address, { at: Date.now(), removals: this.#datapath.removals, ifindex });
    return { endpoint, ifindex };
  }

  /** Devices may have been detached: whoever asks next attaches them anew. */
  clear(): void {
    this.#routes.clear();
  }
}
