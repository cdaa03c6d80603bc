/**
 * The peers of a cell that is leaving: what they are told before it does, and what is sealed for them then. A peer that has
 * agreed in the background hears nothing before the MOVE; nor does one that only follows the cell's new flows.
 */
import { type Flow, flowKey, knownFlow, type PlacedFlow } from '../address.ts';
import type { Cell, PeerKeys } from '../cell/registry.ts';
import type { AgentContext } from '../context.ts';
import type { Label, PeerSession } from '../control/protocol.ts';
import { OsmosisError } from '../error.ts';
import { ARMING, aboutOf, type HelloResult, type SourcedFlow, sayHello } from '../h2o/cell-side.ts';
import { inetSockets } from '../proc/sockets.ts';
import { newTransaction } from '../wire/h2o.ts';
import { areListed } from '../wire/h2o-labels.ts';
import { isDrop, type UdpPolicy } from '../wire/h2o-layout.ts';
import { deriveSession } from '../wire/h2o-session.ts';
import { withSources } from './placed.ts';
import { type Agreed, unaskedPeers } from './unasked.ts';

type Needs = Pick<AgentContext, 'byes' | 'datapath' | 'peerSide' | 'registry' | 'socket' | 'trust'>;

/** What is said of the cell's next place; of a suspension, of the one where it is. */
export type Telling = {
  readonly cell: Cell;
  readonly flows: readonly PlacedFlow[];
  readonly labels: readonly Label[];
  /** It goes into a file: every peer has to know before. */
  readonly suspends: boolean;
  /** Peers that new flows come from, which may have none now. */
  readonly followers: readonly string[];
};

export class ToldPeers {
  readonly #needs: Needs;
  readonly #agreed: Agreed;
  /** Of the peers that may have armed. */
  readonly #keys = new Map<string, PeerKeys>();
  /** Of those that hear nothing before the MOVE. */
  readonly #unasked = new Map<string, PeerKeys>();
  readonly #transactions = new Map<string, Uint8Array>();

  constructor(needs: Needs, agreed: Agreed) {
    this.#needs = needs;
    this.#agreed = agreed;
  }

  /** Of the peers that may have armed, and are told if it does not leave. */
  get keys(): PeerKeys[] {
    return [...this.#keys.values()];
  }

  /** Answers with how many flows were refused that are not there any more. @throws OsmosisError PEER_SILENT, FLOWS_CHANGED */
  async tell(telling: Telling, signal: AbortSignal): Promise<number> {
    const { cell, flows, suspends, followers } = telling;
    const sourced = await withSources(this.#needs.datapath, cell, flows);
    const byPeer = Map.groupBy(sourced, ({ at }) => at.address);
    for (const peer of suspends ? [] : await this.#takeUnasked(telling)) byPeer.delete(peer);
    const refused = await Promise.all(
      [...byPeer].map(([peer, its]) => this.#tell(telling, peer, its, signal)),
    );
    this.#takeFollowers(cell, followers);
    return refused.reduce((sum, count) => sum + count, 0);
  }

  /** What they have agreed to in the background is all that a MOVE needs, if it lists every label. */
  async #takeUnasked({ cell, flows, labels }: Telling): Promise<string[]> {
    const unasked = await unaskedPeers(this.#needs, this.#agreed, cell, flows);
    const peers = [...unasked].filter((peer) => areListed(labels.filter((label) => label.peer === peer)));
    for (const peer of peers) {
      this.#unasked.set(peer, this.#needs.registry.keysWith(cell, peer));
      this.#transactions.set(peer, newTransaction());
    }
    return peers;
  }

  /** Their MOVE needs no HELLO: there is no flow of theirs to claim. */
  #takeFollowers(cell: Cell, followers: readonly string[]): void {
    for (const peer of followers) {
      this.#keys.set(peer, this.#needs.registry.keysWith(cell, peer));
      this.#transactions.set(peer, newTransaction());
    }
  }

  async #tell(
    { cell, labels }: Telling,
    peer: string,
    flows: readonly SourcedFlow[],
    signal: AbortSignal,
  ): Promise<number> {
    const { byes, registry } = this.#needs;
    const known = registry.keysWith(cell, peer);
    if (!(await byes.isOver(cell.id, known, signal))) throw silentPeer(peer);
    const its = labels.filter((label) => label.peer === peer);
    const say = (keys: PeerKeys, what: readonly Label[]) =>
      this.#announce(cell.id, peer, { keys, flows, labels: what }, signal);
    const first = await say(known, its);
    // A peer that knows nothing of a cell that has been there before has forgotten it: its last flow had ended.
    const forgotten = known.epoch > 0 && !first.silent && first.peerPublicKey === undefined;
    if (forgotten) this.#keys.delete(peer);
    const keys = forgotten ? await this.#renew(cell, peer, known, (next) => say(next, [])) : known;
    const { silent, claimable } = keys === known ? first : await say(keys, its);
    if (silent) throw silentPeer(peer);
    const refused = flows.filter(
      (flow) => !claimable.has(flowKey(knownFlow(flow))) && !isRelayEnded(flow, cell),
    );
    const still = refused.length === 0 ? [] : stillThere(refused, cell);
    if (still.length > 0) throw refusedBy(peer, still, flows.length);
    return refused.filter(({ protocol }) => protocol === 'udp').length;
  }

  /**
   * New keys, if the peer takes them. Asked before anything is armed: the agent there may be another one by now. What made
   * us ask was not signed: the old keys stay if the peer knows them after all.
   */
  async #renew(
    cell: Cell,
    peer: string,
    known: PeerKeys,
    ask: (keys: PeerKeys) => Promise<HelloResult>,
  ): Promise<PeerKeys> {
    const { registry } = this.#needs;
    let taken = false;
    const keys = registry.renewKeys(cell, peer);
    try {
      taken = (await ask(keys)).peerPublicKey !== undefined;
    } finally {
      if (!taken) registry.restoreKeys(cell, known);
    }
    return taken ? keys : known;
  }

  async #announce(
    cell: string,
    peer: string,
    { keys, flows, labels }: { keys: PeerKeys; flows: readonly SourcedFlow[]; labels: readonly Label[] },
    signal: AbortSignal,
  ): Promise<HelloResult> {
    const about = aboutOf(cell, keys);
    // Known since it was asked: it may arm although we do not hear of it, and is to be told of the undoing then.
    if (keys.peerPublicKey !== undefined) this.#keys.set(peer, keys);
    const result = await sayHello(this.#needs, peer, about, flows, labels, signal, ARMING);
    this.#transactions.set(peer, result.transaction);
    keys.peerPublicKey = result.peerPublicKey ?? keys.peerPublicKey;
    if (keys.peerPublicKey !== undefined) this.#keys.set(peer, keys);
    return result;
  }

  /** The epoch of each session with those that may have armed is used up: their next message takes the one after. */
  takeEpoch(cell: string): void {
    for (const keys of this.#keys.values()) keys.last++;
    this.#needs.registry.save(cell);
  }

  /** What the next message to each is sealed with. @throws OsmosisError PEER_SILENT */
  sessions(cell: string, udp: UdpPolicy | undefined): PeerSession[] {
    // No BYE takes an epoch where the move is undone, and none may be that of two MOVEs.
    for (const keys of this.#unasked.values()) keys.last++;
    if (this.#unasked.size > 0) this.#needs.registry.save(cell);
    return [...this.#keys, ...this.#unasked].map(([peer, keys]) => this.#session(cell, peer, keys, udp));
  }

  #session(cell: string, peer: string, keys: PeerKeys, udp: UdpPolicy | undefined): PeerSession {
    const { epoch, last, publicKey: cellPublicKey, secretKey, peerPublicKey } = keys;
    const unasked = this.#unasked.has(peer);
    const transaction = this.#transactions.get(peer);
    const id = Buffer.from(cell, 'hex');
    const session =
      peerPublicKey === undefined || transaction === undefined
        ? ({ drop: 'session' } as const)
        : deriveSession({ cell: id, epoch, cellPublicKey, peerPublicKey, secretKey, role: 'cell' });
    if (isDrop(session) || transaction === undefined) {
      throw new OsmosisError(
        'PEER_SILENT',
        `the peer ${peer} sent no usable key; the process goes on at the source`,
        { phase: 'freeze' },
      );
    }
    return unasked
      ? { peer, epoch: last, transaction, ...session, unasked }
      : { peer, epoch: last + 1, transaction, ...session, ...(udp && { udp }) };
  }
}

/** What the host that relayed it says not to know: `osmosis relay end`, or it has forgotten. The peer is out of reach. */
function isRelayEnded({ relayed }: PlacedFlow, { link }: Cell): boolean {
  return relayed === true && link !== undefined;
}

/** A flow that ended in the meantime is missing at its peer with good reason; of UDP, nobody tells the other end. */
function stillThere(flows: readonly PlacedFlow[], { pid }: Cell): PlacedFlow[] {
  const now = new Set(
    inetSockets(pid)
      .filter(({ protocol, state }) => protocol === 'tcp' && state === 'established')
      .map((socket) => flowKey(socket)),
  );
  return flows.filter((flow) => now.has(flowKey(flow)));
}

/** It may be that the process there is on the move itself: worth another try, after it. */
function refusedBy(peer: string, flows: readonly Flow[], all: number): OsmosisError {
  return new OsmosisError(
    'FLOWS_CHANGED',
    `the peer ${peer} does not know ${flows.length} of ${all} flows as ours (such as from its port ${flows[0]?.remote.port}); ` +
      'the process goes on at the source. Either the process there is being moved just now, then try again; or there is address translation between the hosts.',
    { phase: 'prepare' },
  );
}

function silentPeer(peer: string): OsmosisError {
  return new OsmosisError(
    'PEER_SILENT',
    `the agent of the peer ${peer} does not answer; the process goes on at the source. Check that agent and UDP port 18018, or use --drop-legacy.`,
    { phase: 'prepare' },
  );
}
