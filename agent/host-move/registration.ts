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
import { aboutOf, type SourcedFlow, sayHello } from '../h2o/cell-side.ts';
import { onDistrust } from '../h2o/distrust.ts';
import type { PeerSide } from '../h2o/peer-side.ts';
import type { H2oSocket } from '../h2o/socket.ts';
import { isOwnAddress } from '../host/routes.ts';
import { askWithOlderKeys } from '../migration/older-keys.ts';
import { flowIds, withSources } from '../migration/placed.ts';
import { currentSockets } from '../proc/inspect.ts';
import { inetSockets } from '../proc/sockets.ts';
import type { Trust } from '../trust/trust.ts';
import { equalBytes } from '../wire/bytes.ts';
import { Correspondents } from './correspondents.ts';
import type { KeptFlow } from './places.ts';
import { Waits } from './waits.ts';

/** A flow that its peer did not know, or whose end there was on the move, is asked for again after this, doubled each time. */
const REFUSED_MS_FIRST = 2_000;
const REFUSED_MS_LAST = 300_000;
/** A peer that did not answer is asked again after this, doubled each time: most hosts of the world run no agent. */
const SILENT_MS_FIRST = 5_000;
const SILENT_MS_LAST = 3_600_000;
/** A peer that holds claims is asked again so often whether it is there and does still: with one datagram. */
const REFRESH_MS = 20_000;
/** Flows that are named then, the newest. */
const REFRESH_FLOWS_MAX = 64;
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
  readonly peerSide: Pick<PeerSide, 'placeOf' | 'heldAmong'>;
  /** Whether the cell has claimed flows of that peer: the pair of keys is good then. */
  readonly isKept: (cell: string, peer: string) => boolean;
};

/** What peers have let a cell claim: with other ends that are there still, and with some that have gone elsewhere. */
type Kept = { readonly there: readonly KeptFlow[]; readonly elsewhere: readonly KeptFlow[] };

/** Of this host, at one moment. */
type Here = { readonly usable: ReadonlySet<string>; readonly socketsOf: typeof inetSockets };

export class Registration {
  readonly #needs: RegistrationNeeds;
  readonly #stop = new AbortController();
  /** `cell peer` that are being asked. */
  readonly #asking = new Set<string>();
  /** By `cell flowKey`. */
  readonly #refused = new Waits(REFUSED_MS_FIRST, REFUSED_MS_LAST);
  /** By `cell peer`. */
  readonly #silent = new Waits(SILENT_MS_FIRST, SILENT_MS_LAST);
  /** When all that was asked was answered with yes, by `cell peer`; of performance.now(). */
  readonly #heard = new Map<string, { readonly at: number; readonly decisions: number }>();
  readonly #refreshedAt = new Map<string, number>();
  readonly #correspondents: Correspondents;
  readonly #unlisten: () => void;
  readonly #lost: (cell: string, peer: string) => void;
  readonly #claimed: (cell: string, peer: string, flows: readonly KeptFlow[]) => void;

  /** `claimed` is told of what a peer has let a cell claim, `lost` of a peer that has forgotten what it was asked before. */
  constructor(
    needs: RegistrationNeeds,
    claimed: (cell: string, peer: string, flows: readonly KeptFlow[]) => void,
    lost: (cell: string, peer: string) => void,
  ) {
    this.#needs = needs;
    this.#claimed = claimed;
    this.#lost = lost;
    this.#correspondents = new Correspondents(needs);
    this.#unlisten = onDistrust(needs.socket, (cell, peer) => this.end(cell, peer));
  }

  stop(): void {
    this.#unlisten();
    this.#stop.abort();
    this.#correspondents.stop();
  }

  /** Peers whose agents did not answer for this cell when they were last asked. */
  silent(cell: string): string[] {
    return this.#silent.after(`${cell} `);
  }

  /** Since when this peer has not been heard of the cell; infinite where it said no, or was not asked. */
  ageOf(cell: string, peer: string): number {
    const heard = this.#heard.get(`${cell} ${peer}`);
    // It was trusted when it was heard: the operator may have decided otherwise since.
    if (heard === undefined || heard.decisions !== this.#decisions) return Number.POSITIVE_INFINITY;
    return performance.now() - heard.at;
  }

  /** It has to say anew what it holds. */
  forget(cell: string, peer: string): void {
    this.#heard.delete(`${cell} ${peer}`);
  }

  /** The cell has nothing with that peer any more. */
  end(cell: string, peer: string): void {
    this.forget(cell, peer);
    this.#refreshedAt.delete(`${cell} ${peer}`);
  }

  /** Nobody is there to ask while the process at the other end is suspended. By flowKey. */
  #heldOf(cell: Cell, flows: readonly Flow[]): Set<string> {
    return new Set(this.#needs.peerSide.heldAmong(flowIds(cell, flows)).map((id) => flowKey(id)));
  }

  /** Asks, beside it, for some of what this peer has let the cell claim, where that was long ago. */
  refresh(cell: Cell, peer: string, claimed: readonly KeptFlow[]): void {
    const key = `${cell.id} ${peer}`;
    const isDue = performance.now() - (this.#refreshedAt.get(key) ?? Number.NEGATIVE_INFINITY) > REFRESH_MS;
    if (claimed.length === 0 || !isDue || this.ageOf(cell.id, peer) < REFRESH_MS) return;
    const held = this.#heldOf(cell, claimed);
    const flows = claimed.filter((flow) => !held.has(flowKey(flow))).slice(-REFRESH_FLOWS_MAX);
    if (flows.length === 0) return;
    this.#refreshedAt.set(key, performance.now());
    this.#askBeside(
      cell,
      peer,
      flows.map((flow) => ({ ...flow, at: peerOf(this.#needs.peerSide, cell, flow) })),
    );
  }

  /**
   * Asks, beside it, for what is not claimed yet. `there`: what is. `elsewhere`: what another peer has let the cell claim,
   * before the other end went from there to where it is now.
   */
  look(cell: Cell, kept: Kept, here: Here): void {
    const flows = this.#candidates(cell, kept, here).filter((flow) =>
      this.#refused.isDue(`${cell.id} ${flowKey(flow)}`),
    );
    for (const [peer, its] of Map.groupBy(flows, ({ at }) => at.address))
      this.#askBeside(cell, peer, its.slice(0, ASKED_FLOWS_MAX));
  }

  #askBeside(cell: Cell, peer: string, flows: readonly (PlacedFlow & KeptFlow)[]): void {
    const key = `${cell.id} ${peer}`;
    if (this.#asking.has(key) || this.#asking.size >= ASKING_MAX || !this.#silent.isDue(key)) return;
    this.#asking.add(key);
    void this.#ask(cell, peer, flows)
      // Such as one that is not to be trusted.
      .catch(() => this.forget(cell.id, peer))
      .finally(() => this.#asking.delete(key));
  }

  get #decisions(): number {
    return this.#needs.trust.known.decisions;
  }

  /** Flows to other hosts, by an address that this host has now. */
  #candidates(
    cell: Cell,
    { there, elsewhere }: Kept,
    { usable, socketsOf }: Here,
  ): (PlacedFlow & KeptFlow)[] {
    // Also by the place that a datagram socket without an address has come to: that is no flow of its own.
    const places = (flow: KeptFlow) => [flowKey(flow), flowKey({ ...flow, local: flow.wireLocal })];
    const known = new Set(there.flatMap(places));
    const kept = new Map(elsewhere.map((flow) => [flowKey(flow), flow]));
    const names = new Map((cell.known ?? []).map((flow) => [flowKey(flow), flow.known]));
    const flows = this.#flowsOf(cell, socketsOf).filter((flow) => !known.has(flowKey(flow)));
    const held = this.#heldOf(cell, flows);
    return flows.flatMap((flow) => {
      const key = flowKey(flow);
      const { remote } = flow;
      // Where both ends were on this host it goes by way of the loopback device: that is another matter.
      const isBeside = isLoopback(remote.address) || isOwnAddress(remote.address);
      if (held.has(key) || isBeside || isLinkLocal(remote.address)) return [];
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

  #flowsOf(cell: Cell, socketsOf = inetSockets): readonly (Flow & Pick<KeptFlow, 'isLoose'>)[] {
    if (cell.link !== undefined) return cell.flows;
    const sockets = currentSockets(cell.pid, socketsOf);
    return [...sockets.flows, ...this.#correspondents.of(cell, sockets)];
  }

  async #ask(cell: Cell, peer: string, flows: readonly (PlacedFlow & KeptFlow)[]): Promise<void> {
    const { registry, datapath } = this.#needs;
    const decisions = this.#decisions;
    const keys = registry.keysWith(cell, peer);
    const about = { ...aboutOf(cell.id, keys), keeps: true } as const;
    const sourced = await withSources(datapath, cell, flows);
    const { signal } = this.#stop;
    const asked = await sayHello(this.#needs, peer, about, sourced, [], signal, PATIENCE);
    const { silent, claimable, peerPublicKey } = asked;
    // The cell has gone, or has told this peer of a move meanwhile.
    if (!registry.isRegistered(cell.id) || registry.keysWith(cell, peer) !== keys) return;
    const isStrange = !silent && peerPublicKey === undefined && keys.epoch === 0;
    // Asked again at the next look, with keys that it knows.
    if (isStrange && (await this.#isKnownAsBefore(cell, peer, sourced))) return;
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
    const claimed = flows.filter(isClaimed).map(({ at: _, ...flow }): KeptFlow => flow);
    if (!silent && claimed.length === flows.length)
      this.#heard.set(`${cell.id} ${peer}`, { at: performance.now(), decisions });
    else this.forget(cell.id, peer);
    if (peerPublicKey === undefined) return;
    const known = keys.peerPublicKey;
    if (known !== undefined && !equalBytes(known, peerPublicKey)) this.#lost(cell.id, peer);
    keys.peerPublicKey = peerPublicKey;
    registry.save(cell.id);
    if (claimed.length > 0) this.#claimed(cell.id, peer, claimed);
  }

  /** The peer's host has another address than when the cell moved last. */
  async #isKnownAsBefore(cell: Cell, peer: string, flows: readonly SourcedFlow[]): Promise<boolean> {
    const inUse = new Set(
      this.#flowsOf(cell).map((flow) => peerOf(this.#needs.peerSide, cell, flow).address),
    );
    const question = { peer, flows, inUse, keeps: true, patience: PATIENCE } as const;
    return (await askWithOlderKeys(this.#needs, cell, question, this.#stop.signal)) !== undefined;
  }
}

/** Where the other end of a flow is now, as far as it has told this host. */
export function peerOf(peerSide: Pick<PeerSide, 'placeOf'>, { link }: Cell, flow: Flow): Endpoint {
  const { protocol, local, remote } = flow;
  return peerSide.placeOf({ protocol, local, remote, scope: link?.ifindex ?? 0 }) ?? remote;
}
