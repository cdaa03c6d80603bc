/**
 * Ends of flows that are this host's, and that their own endpoints can't stand for on the wire: on the loopback device, or of
 * a peer without an agent that this host relays for.
 */
import { isSameEndpoint, type PlacedFlow } from '../address.ts';
import type { Labels } from '../cell/labels.ts';
import type { Datapath } from '../datapath/datapath.ts';
import { type FlowId, LOOPBACK, type LocalHalf, RELAY } from '../datapath/model.ts';
import { keyOf } from '../datapath/table.ts';
import { ownAddressLike } from '../host/routes.ts';
import type { Turns } from '../turns.ts';
import { needsLabel, otherView } from './peer-flows.ts';
import type { PeerRecord, PeerRecords } from './peer-records.ts';
import type { WireSlots } from './wire-slots.ts';

type Needs = {
  readonly datapath: Datapath;
  readonly labels: Labels;
  readonly records: PeerRecords;
  readonly slots: WireSlots;
  readonly turns: Turns;
};

export class OwnEnds {
  readonly #needs: Needs;
  /** Those that a cell of this host may claim when it leaves, by keyOf. */
  readonly #offers = new Map<string, LocalHalf>();

  constructor(needs: Needs) {
    this.#needs = needs;
  }

  /** After a restart: labels of what is in the kernel still are in use. */
  load(): void {
    const { labels, records } = this.#needs;
    const own = records.all().flatMap(({ flows }) => [...flows.values()].flatMap((flow) => flow.own ?? []));
    labels.take(
      own.filter(needsLabel).map(({ protocol, wireLocal }) => ({ protocol, port: wireLocal.port })),
    );
  }

  /** What a cell that leaves may claim as its other end; undefined for what nobody has offered. */
  offered(id: FlowId): LocalHalf | undefined {
    return this.#offers.get(keyOf(id));
  }

  /**
   * Flows of a cell of this host whose other ends will not go with it: they are on this host too, or, to be relayed, on a
   * host without an agent. Answers with the flows as the cell has to claim them from this host then. What is not claimed
   * is to be withdrawn.
   */
  async offer(flows: readonly PlacedFlow[], relay: boolean): Promise<PlacedFlow[]> {
    const scope = relay ? RELAY : 0;
    const ids = flows.map((flow) => ({ ...otherView(flow), scope }));
    // What can fail comes first: nothing is drawn then.
    const vias: number[] = [];
    for (const id of ids) vias.push(relay ? (await this.#needs.slots.of(id.local)).ifindex : LOOPBACK);
    const known = ids.map((id) => this.#needs.records.owner(id)?.flows.get(keyOf(id))?.own);
    const labelled = ids.filter((id, index) => known[index] === undefined && needsLabel(id));
    const ports =
      labelled.length === 0 ? [] : this.#needs.labels.draw(labelled.map(({ protocol }) => protocol));
    const port = new Map(labelled.map((id, index) => [keyOf(id), ports[index] ?? 0]));
    const offered: PlacedFlow[] = [];
    for (const [index, flow] of flows.entries()) {
      const id = { ...otherView(flow), scope };
      const label = port.get(keyOf(id));
      const wireLocal =
        label === undefined ? id.local : { address: ownAddressLike(id.remote.address), port: label };
      const via = vias[index] ?? LOOPBACK;
      const half = known[index] ?? { ...id, wireLocal, localSide: 0, via, path: LOOPBACK };
      this.#offers.set(keyOf(id), half);
      const placed = { ...flow, at: half.wireLocal };
      offered.push(relay ? { ...placed, relayed: true } : placed);
    }
    return offered;
  }

  /** The migration has ended, one way or the other: labels of flows that nobody has claimed are free again. */
  async withdraw(flows: readonly PlacedFlow[]): Promise<void> {
    await this.#needs.turns.run(async () => {
      for (const flow of flows) {
        for (const scope of [0, RELAY]) {
          const key = keyOf({ ...otherView(flow), scope });
          const half = this.#offers.get(key);
          this.#offers.delete(key);
          if (half !== undefined && this.#needs.records.owner(half)?.flows.get(key)?.own === undefined)
            this.release([half]);
        }
      }
    });
  }

  /**
   * The flows of a cell that has come home: those that need an entry because their other ends are elsewhere, though they
   * have an address or a label of this host's, are looked after from here on. Answers with the others.
   */
  async keep<Half extends LocalHalf>(halves: readonly Half[]): Promise<Half[]> {
    const kept: LocalHalf[] = [];
    const changed = new Set<PeerRecord>();
    await this.#needs.turns.run(async () => {
      for (const half of halves.filter(({ via }) => via !== 0)) {
        const { protocol, local, remote, scope, wireLocal, via, path } = half;
        const record = this.#needs.records.owner(half);
        const flow = record?.flows.get(keyOf(half));
        if (record === undefined || flow === undefined) continue;
        flow.own = { protocol, local, remote, scope, wireLocal, localSide: 0, via, path };
        kept.push(flow.own);
        changed.add(record);
      }
      for (const record of changed) this.#needs.records.saveFlows(record);
      await this.#needs.datapath.putLocals(kept);
    });
    const keys = new Set(kept.map((half) => keyOf(half)));
    return halves.filter((half) => !keys.has(keyOf(half)));
  }

  /** Whether that place is a label of this host for an end that is here, and so needs none for a cell that comes home. */
  isOwnLabel(flow: PlacedFlow): boolean {
    return [0, RELAY].some((scope) => {
      const id = { ...otherView(flow), scope };
      const own = this.#needs.records.owner(id)?.flows.get(keyOf(id))?.own;
      return own !== undefined && isSameEndpoint(own.wireLocal, flow.at);
    });
  }

  /** Their labels are free again. */
  release(halves: readonly LocalHalf[]): void {
    this.#needs.labels.release(
      halves.filter(needsLabel).map(({ protocol, wireLocal }) => ({ protocol, port: wireLocal.port })),
    );
  }
}
