/** Which flows of this host the cell of a HELLO may claim. */
import { type Flow, flowKey, isLoopback, isSameEndpoint, knownFlow, reversed } from '../address.ts';
import type { Cell } from '../cell/registry.ts';
import type { Datapath } from '../datapath/datapath.ts';
import { type FlowId, RELAY } from '../datapath/model.ts';
import { keyOf } from '../datapath/table.ts';
import { isOwnAddress } from '../host/routes.ts';
import type { Hello } from '../wire/h2o.ts';
import { claimedFlows } from '../wire/h2o-claims.ts';
import type { Follows } from './follows.ts';
import type { KernelFlows } from './kernel-flows.ts';
import type { OwnEnds } from './own-ends.ts';
import { type PeerRecord, type PeerRecords, placeOf } from './peer-records.ts';

/** Why a cell may not claim a flow. */
type Refusal = 'unknown here' | 'of another cell' | 'elsewhere' | 'on the move itself';

export type Judged = {
  /** The flow as this host has it, where it may be claimed; in the order of the claims. */
  readonly ids: readonly (FlowId | undefined)[];
  /** How many may not, and why. */
  readonly refused: Partial<Record<Refusal, number>>;
};

/** Who makes the claims: a cell, what this host has of the pair that the HELLO shows, and the address that it came from. */
export type Claimant = {
  readonly cell: string;
  readonly pair: PeerRecord | undefined;
  readonly from: string;
};

type Needs = {
  readonly datapath: Datapath;
  readonly records: PeerRecords;
  readonly kernel: KernelFlows;
  readonly follows: Follows;
  readonly ownEnds: OwnEnds;
  readonly cells: () => readonly Cell[];
};

export class Admission {
  readonly #needs: Needs;
  #isLeaving: (id: FlowId) => boolean = () => false;
  #adoptNew: () => Promise<void> = async () => {};
  /** Of the HELLO for which new flows were read last. */
  #readFor = '';

  constructor(needs: Needs) {
    this.#needs = needs;
  }

  /**
   * `isLeaving`: whether a flow of this host belongs to a cell that is being moved away just now. `adoptNew`: enters flows
   * that cells have had since they came into the registry.
   */
  start(isLeaving: (id: FlowId) => boolean, adoptNew: () => Promise<void>): void {
    this.#isLeaving = isLeaving;
    this.#adoptNew = adoptNew;
  }

  async judge(hello: Hello, claimant: Claimant): Promise<Judged> {
    const flows = claimedFlows(hello.claims);
    await this.#readCreated(hello, claimant.cell, flows);
    const names = this.#names();
    const refused: Partial<Record<Refusal, number>> = {};
    const ids = flows.map((flow) => {
      const id = this.#claimable(flow, claimant, names);
      if (typeof id !== 'string') return id;
      refused[id] = (refused[id] ?? 0) + 1;
      return undefined;
    });
    return { ids, refused };
  }

  /**
   * Flows that were created by rules are as good as those that a cell came with: of those that followed it here, and of this
   * host's own cells, whose other ends may have another name for them. Read once for all parts.
   */
  async #readCreated({ transaction }: Hello, cell: string, claimed: readonly Flow[]): Promise<void> {
    const follows = this.#needs.records.of(cell).some(({ follow }) => follow !== undefined);
    const isOfCell = this.#needs.datapath.isRuled && claimed.some((flow) => !this.#isOfHost(flow));
    const read = Buffer.from(transaction).toString('hex');
    if ((!follows && !isOfCell) || this.#readFor === read) return;
    this.#readFor = read;
    await this.#needs.follows.take();
    await this.#adoptNew();
  }

  /** Whether it has a socket outside of cells. `flow`: the cell's view. */
  #isOfHost(flow: Flow): boolean {
    return this.#needs.kernel.scopesOf(reversed(flow)).includes(0);
  }

  /** Flows of this host's cells that their other ends have another name for, by that name (`flowKey`, as seen from here). */
  #names(): Map<string, FlowId> {
    const named = this.#needs.cells().flatMap(({ known = [], link }) =>
      known.map((flow): [string, FlowId] => {
        const { protocol, local, remote } = flow;
        return [flowKey(knownFlow(flow)), { protocol, local, remote, scope: link?.ifindex ?? 0 }];
      }),
    );
    return new Map(named);
  }

  /**
   * The flow as this host has it, where the cell may claim it: it exists here, its remote end is now where the HELLO came
   * from, no other pair has moved with it, and its local end is not on the move itself.
   * @param claimed the cell's view: its remote endpoint is ours
   */
  #claimable(claimed: Flow, { pair, from }: Claimant, names: ReadonlyMap<string, FlowId>): FlowId | Refusal {
    const { local } = claimed;
    let refusal: Refusal = 'unknown here';
    const mine = reversed(claimed);
    const relayed = { ...mine, scope: RELAY };
    const isRelayed =
      this.#needs.ownEnds.offered(relayed) !== undefined || this.#needs.records.owner(relayed) !== undefined;
    const ids = [
      names.get(flowKey(mine)),
      ...this.#needs.kernel.scopesOf(mine).map((scope) => ({ ...mine, scope })),
      isRelayed ? relayed : undefined,
      this.#needs.follows.relayedAs(mine),
    ];
    for (const id of ids) {
      if (id === undefined) continue;
      const owner = this.#needs.records.owner(id);
      const anothers = owner !== undefined && owner !== pair && (owner.state?.pair.epoch ?? 0) > 0;
      const flow = owner?.flows.get(keyOf(id));
      const place = owner === undefined || flow === undefined ? undefined : placeOf(flow, owner)?.endpoint;
      // An announced flow that has not moved yet is owned as well, and is still where it began.
      const began = place === undefined || isSameEndpoint(place, local);
      const isThere = began ? isSameHost(local.address, from) : place.address === from;
      if (!anothers && isThere && !this.#isLeaving(id)) return id;
      refusal = anothers ? 'of another cell' : isThere ? 'on the move itself' : 'elsewhere';
    }
    return refusal;
  }
}

/** A loopback address stands for whatever address the host says it from. */
function isSameHost(address: string, from: string): boolean {
  return address === from || (isLoopback(address) && isOwnAddress(from));
}
