/**
 * Exchanges keys for the flows of this host's cells in the background, as they appear: a MOVE after a change of this host's
 * address needs keys from before it, for a HELLO counts only from where a flow is. No secret is computed for that.
 */
import {
  type Endpoint,
  type Flow,
  flowKey,
  isLinkLocal,
  isLoopback,
  knownFlow,
  type PlacedFlow,
} from '../address.ts';
import type { Cell, Registry } from '../cell/registry.ts';
import type { Datapath } from '../datapath/datapath.ts';
import { aboutOf, sayHello } from '../h2o/cell-side.ts';
import type { PeerSide } from '../h2o/peer-side.ts';
import type { H2oSocket } from '../h2o/socket.ts';
import { isOwnAddress } from '../host/routes.ts';
import { withSources } from '../migration/placed.ts';
import { currentSockets } from '../proc/inspect.ts';
import type { Trust } from '../trust/trust.ts';
import { Correspondents } from './correspondents.ts';
import type { KeptFlow } from './places.ts';
import { Waits } from './waits.ts';

/** A flow that its peer did not know, or whose end there was on the move, is asked for again after this, doubled each time. */
const REFUSED_MS_FIRST = 2_000;
const REFUSED_MS_LAST = 300_000;
/** A peer that did not answer is asked again after this, doubled each time: most hosts of the world run no agent. */
const SILENT_MS_FIRST = 5_000;
const SILENT_MS_LAST = 3_600_000;
/** In the background nobody waits for the answer. */
const PATIENCE = { triesMax: 4, retryMsMax: 1_600 } as const;
/** Peers that are asked at once. */
const ASKING_MAX = 16;
/** What of one cell is asked of one peer at a time: some twenty datagrams. */
const ASKED_FLOWS_MAX = 10_000;

export type RegistrationNeeds = {
  readonly datapath: Datapath;
  readonly registry: Registry;
  readonly socket: H2oSocket;
  readonly trust: Trust;
  readonly peerSide: Pick<PeerSide, 'placeOf'>;
  /** Whether the cell has claimed flows of that peer: the pair of keys is good then. */
  readonly isKept: (cell: string, peer: string) => boolean;
};

export class Registration {
  readonly #needs: RegistrationNeeds;
  readonly #stop = new AbortController();
  /** `cell peer` that are being asked. */
  readonly #asking = new Set<string>();
  /** By `cell flowKey`. */
  readonly #refused = new Waits(REFUSED_MS_FIRST, REFUSED_MS_LAST);
  /** By `cell peer`. */
  readonly #silent = new Waits(SILENT_MS_FIRST, SILENT_MS_LAST);
  readonly #correspondents: Correspondents;
  readonly #claimed: (cell: string, peer: string, flows: readonly KeptFlow[]) => void;

  /** `claimed` is told of what a peer has let a cell claim. */
  constructor(
    needs: RegistrationNeeds,
    claimed: (cell: string, peer: string, flows: readonly KeptFlow[]) => void,
  ) {
    this.#needs = needs;
    this.#claimed = claimed;
    this.#correspondents = new Correspondents(needs.datapath);
  }

  stop(): void {
    this.#stop.abort();
    this.#correspondents.stop();
  }

  /** Peers whose agents did not answer for this cell when they were last asked. */
  silent(cell: string): string[] {
    return this.#silent.after(`${cell} `);
  }

  /**
   * Asks, beside it, for what is not claimed yet. `there`: what is. `elsewhere`: what another peer has let the cell claim,
   * before the other end went from there to where it is now.
   */
  look(
    cell: Cell,
    there: readonly KeptFlow[],
    elsewhere: readonly KeptFlow[],
    usable: ReadonlySet<string>,
  ): void {
    const flows = this.#candidates(cell, there, elsewhere, usable).filter((flow) =>
      this.#refused.isDue(`${cell.id} ${flowKey(flow)}`),
    );
    for (const [peer, its] of Map.groupBy(flows, ({ at }) => at.address)) {
      const key = `${cell.id} ${peer}`;
      if (this.#asking.has(key) || this.#asking.size >= ASKING_MAX) continue;
      if (!this.#silent.isDue(key)) continue;
      this.#asking.add(key);
      void this.#ask(cell, peer, its.slice(0, ASKED_FLOWS_MAX))
        .catch(() => undefined)
        .finally(() => this.#asking.delete(key));
    }
  }

  /** Flows to other hosts, by an address that this host has now. */
  #candidates(
    cell: Cell,
    there: readonly KeptFlow[],
    elsewhere: readonly KeptFlow[],
    usable: ReadonlySet<string>,
  ): (PlacedFlow & KeptFlow)[] {
    // Also by the place that a datagram socket without an address has come to: that is no flow of its own.
    const places = (flow: KeptFlow) => [flowKey(flow), flowKey({ ...flow, local: flow.wireLocal })];
    const known = new Set(there.flatMap(places));
    const kept = new Map(elsewhere.map((flow) => [flowKey(flow), flow]));
    const names = new Map((cell.known ?? []).map((flow) => [flowKey(flow), flow.known]));
    const flows = this.#flowsOf(cell);
    return flows.flatMap((flow) => {
      const key = flowKey(flow);
      const { remote } = flow;
      // Where both ends were on this host it goes by way of the loopback device: that is another matter.
      const isBeside = isLoopback(remote.address) || isOwnAddress(remote.address);
      if (known.has(key) || isBeside || isLinkLocal(remote.address)) return [];
      const half = kept.get(key) ?? this.#halfOf(cell, flow);
      const at = peerOf(this.#needs.peerSide, cell, flow);
      // In a network of its own the loopback device is the cell's: what its home says, or relays, comes by that.
      const isByLoopback = cell.link === undefined && half.via !== 0;
      if (isByLoopback || isOwnAddress(at.address) || !usable.has(half.wireLocal.address)) return [];
      return [{ ...half, known: names.get(key), at }];
    });
  }

  #halfOf({ link }: Cell, flow: Flow & Partial<KeptFlow>): KeptFlow {
    const { protocol, local, remote, isLoose } = flow;
    const plain = { protocol, local, remote, scope: 0, wireLocal: local, localSide: 0, via: 0, path: 0 };
    return link === undefined ? { ...plain, isLoose } : { ...plain, ...flow };
  }

  #flowsOf(cell: Cell): readonly (Flow & Pick<KeptFlow, 'isLoose'>)[] {
    if (cell.link !== undefined) return cell.flows;
    const sockets = currentSockets(cell.pid);
    return [...sockets.flows, ...this.#correspondents.of(cell, sockets)];
  }

  async #ask(cell: Cell, peer: string, flows: readonly (PlacedFlow & KeptFlow)[]): Promise<void> {
    const { registry, datapath } = this.#needs;
    const keys = registry.keysWith(cell, peer);
    const about = { ...aboutOf(cell.id, keys), keeps: true } as const;
    const sourced = await withSources(datapath, cell, flows);
    const { signal } = this.#stop;
    const asked = await sayHello(this.#needs, peer, about, sourced, [], signal, PATIENCE);
    const { silent, claimable, peerPublicKey } = asked;
    // The cell has gone, or has told this peer of a move meanwhile.
    if (!registry.isRegistered(cell.id) || registry.keysWith(cell, peer) !== keys) return;
    if (silent) this.#silent.failed(`${cell.id} ${peer}`);
    else this.#silent.succeeded(`${cell.id} ${peer}`);
    // A peer that has forgotten the cell, which has nothing there any more: both begin anew.
    const isForgotten = !silent && peerPublicKey === undefined && keys.epoch > 0;
    if (isForgotten && cell.link === undefined && !this.#needs.isKept(cell.id, peer))
      registry.renewKeys(cell, peer);
    const isClaimed = (flow: PlacedFlow) => claimable.has(flowKey(knownFlow(flow)));
    for (const flow of silent ? [] : flows) {
      const key = `${cell.id} ${flowKey(flow)}`;
      if (isClaimed(flow)) this.#refused.succeeded(key);
      else this.#refused.failed(key);
    }
    if (peerPublicKey === undefined) return;
    keys.peerPublicKey = peerPublicKey;
    registry.save(cell.id);
    const claimed = flows.filter(isClaimed).map(({ at: _, ...flow }): KeptFlow => flow);
    if (claimed.length > 0) this.#claimed(cell.id, peer, claimed);
  }
}

/** Where the other end of a flow is now, as far as it has told this host. */
export function peerOf(peerSide: Pick<PeerSide, 'placeOf'>, { link }: Cell, flow: Flow): Endpoint {
  const { protocol, local, remote } = flow;
  return peerSide.placeOf({ protocol, local, remote, scope: link?.ifindex ?? 0 }) ?? remote;
}
