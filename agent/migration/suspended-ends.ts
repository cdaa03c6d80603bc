/** Of a cell that is leaving, its flows with suspended cells: these are told of nothing, and find it where it goes. */
import { flowKey, type PlacedFlow } from '../address.ts';
import type { Cell } from '../cell/registry.ts';
import type { Label, RemoteHeld } from '../control/protocol.ts';
import type { FlowId } from '../datapath/model.ts';
import { OsmosisError } from '../error.ts';
import type { Handed } from '../h2o/handed-over.ts';
import { areTellable, handedTo } from '../h2o/held-ends.ts';
import type { PeerSide } from '../h2o/peer-side.ts';
import { LABELS_LISTED_MAX } from '../wire/h2o-labels.ts';
import { flowIds } from './placed.ts';

export class SuspendedEnds {
  readonly #peerSide: PeerSide;
  #ids: readonly FlowId[] = [];
  #flows: ReadonlySet<PlacedFlow> = new Set();
  /** What passes by here on its way to them, once they have gone. */
  handed: readonly Handed[] = [];

  constructor(peerSide: PeerSide) {
    this.#peerSide = peerSide;
  }

  get isNone(): boolean {
    return this.#flows.size === 0;
  }

  /** @throws OsmosisError PREFLIGHT, FLOWS_CHANGED where they can't go along. */
  async take(cell: Cell, flows: readonly PlacedFlow[]): Promise<void> {
    const ids = this.#peerSide.heldAmong(flowIds(cell, flows));
    const keys = new Set(ids.map((id) => flowKey(id)));
    const held = flows.filter((flow) => keys.has(flowKey(flow)));
    [this.#ids, this.#flows] = [flowIds(cell, held), new Set(held)];
    if (this.isNone) return;
    await this.#peerSide.checkHeld(this.#ids);
    if (areTellable(held)) return;
    throw new OsmosisError(
      'PREFLIGHT',
      `it can't be moved: it has more than ${LABELS_LISTED_MAX} connections of its own with a suspended process, which has to be ` +
        'told of all of them at once when it is back; it goes on at the source. Resume that one first.',
      { phase: 'prepare' },
    );
  }

  /** Flows with peers whose agents have to know of the move before it happens. */
  others(flows: readonly PlacedFlow[]): PlacedFlow[] {
    return flows.filter((flow) => !this.#flows.has(flow));
  }

  /** Suspended cells at the other ends find them where this one goes. `labels`: its new places. */
  async handOut(labels: readonly Label[]): Promise<RemoteHeld[]> {
    if (this.isNone) return [];
    const held = await this.#peerSide.handOut(this.#ids);
    this.handed = held.flatMap((each) => {
      const places = new Set(each.flows.map(({ at }) => at.address));
      const to = labels.find(({ peer }) => places.has(peer))?.wire.address;
      // Back where its cell looks for it nobody has to be told the way.
      return to === undefined || each.origin.includes(to) ? [] : [handedTo(to, each)];
    });
    return held;
  }

  /** They stay after all. */
  async keep(): Promise<void> {
    await this.#peerSide.keepHeld(this.#ids);
  }
}
