/** The peers of a cell that arrives: each gets one MOVE, and turns to the cell's new place. */
import { setTimeout as sleep } from 'node:timers/promises';
import { endpointKey } from '../address.ts';
import type { AgentContext } from '../context.ts';
import type { Label, PeerSession, Snapshot } from '../control/protocol.ts';
import { OsmosisError } from '../error.ts';
import { createArming, sendArming } from '../h2o/arming.ts';
import { areListed } from '../wire/h2o-labels.ts';
import { generateKeyPair, type KeyPair } from '../wire/h2o-session.ts';
import { Announcement, type AnnouncementRecord } from './announcement.ts';

/** MOVE is under way for this long at most before the process runs: one round trip where peers are near. */
const HEAD_START_MS_MAX = 30;
/**
 * The same out of a file, and for peers that were told nothing before: those have all answered just before, or within the last
 * minute. One that is gone must not keep the others.
 */
const TURNED_MS_MAX = 10_000;
/** Peers that have just answered arm within this. Then the image is as it was. */
const ARM_MS_MAX = 15_000;
/** An undoing waits for peers that forget what they have armed. */
const BYE_WAIT_MS_MAX = 1_000;

type Needs = Pick<AgentContext, 'byes' | 'socket'>;
type Coming = Pick<Snapshot, 'cell' | 'flows'>;

export class TurningPeers {
  readonly #needs: Needs;
  readonly #snapshot: Coming;
  readonly #isFromFile: boolean;
  readonly #labels: () => readonly Label[];
  /** By peer; made ahead, because making them takes longer than all else in the restore phase but CRIU. */
  readonly #nextKeys = new Map<string, KeyPair>();
  #announcements: readonly Announcement[];

  /** `labels`: of the cell's new place, once they are drawn. `records`: what an agent before this one had come to. */
  constructor(
    needs: Needs,
    snapshot: Coming,
    labels: () => readonly Label[],
    isFromFile: boolean,
    records: readonly AnnouncementRecord[] = [],
  ) {
    this.#needs = needs;
    this.#snapshot = snapshot;
    this.#labels = labels;
    this.#isFromFile = isFromFile;
    this.#announcements = records.map((one) => Announcement.adopt(needs.socket, one));
  }

  get announcements(): readonly Announcement[] {
    return this.#announcements;
  }

  prepare(): void {
    for (const { at } of this.#snapshot.flows)
      if (!this.#nextKeys.has(at.address)) this.#nextKeys.set(at.address, generateKeyPair());
  }

  announce(sessions: readonly PeerSession[]): void {
    this.#announcements = sessions.map((session) =>
      Announcement.create(
        this.#needs.socket,
        session,
        this.#labelsFor(session.peer),
        this.#nextKeys.get(session.peer) ?? generateKeyPair(),
        // Out of a file: its answer may have more to say, where its end is now.
        { padded: this.#isFromFile },
      ),
    );
  }

  /** What the MOVE to a peer lists: labels of listeners too, unless there are so many that it names some by digest. */
  #labelsFor(peer: string): Label[] {
    const labels = this.#labels().filter((label) => label.peer === peer);
    if (areListed(labels)) return labels;
    const { flows } = this.#snapshot;
    const local = new Set(flows.map((flow) => endpointKey(flow.protocol, flow.known ?? flow.local)));
    return labels.filter(({ protocol, virtual }) => local.has(endpointKey(protocol, virtual)));
  }

  /**
   * Out of a file: see DestinationMigration.arm. `save` writes down what is announced, before it is.
   * @throws OsmosisError PEER_SILENT
   */
  async arm(sessions: readonly PeerSession[], save: () => void, signal: AbortSignal): Promise<void> {
    const armings = sessions.flatMap(({ peer, epoch, cell, tag, toPeer, toCell }) => {
      const labels = this.#labelsFor(peer);
      return labels.length === 0
        ? []
        : [createArming(peer, { cell, tag, toPeer, toCell }, epoch - 1, labels)];
    });
    const armed = new Map(armings.map(({ peer, transaction }) => [peer, transaction]));
    this.announce(sessions.map((one) => ({ ...one, transaction: armed.get(one.peer) ?? one.transaction })));
    save();
    const until = AbortSignal.any([signal, AbortSignal.timeout(ARM_MS_MAX)]);
    const told = await Promise.all(armings.map((one) => sendArming(this.#needs.socket, one, until)));
    signal.throwIfAborted();
    const silent = armings.filter((_, index) => !told[index]).map(({ peer }) => peer);
    if (silent.length === 0) return;
    throw new OsmosisError(
      'PEER_SILENT',
      `the agent of the peer ${silent.join(', ')} does not answer any more. Check it and UDP port 18018; or another copy of the file is being resumed`,
      { phase: 'prepare' },
    );
  }

  /** Every MOVE is under way. Settles when each is acknowledged, or given up. */
  async start(): Promise<void> {
    await Promise.all(this.#announcements.map((announcement) => announcement.start()));
  }

  /** Peers that were told nothing before have turned. */
  async unaskedTurned(): Promise<void> {
    const unasked = this.awaited.filter((one) => one.isUnasked).map((one) => one.acknowledged);
    if (unasked.length > 0) await within(TURNED_MS_MAX, Promise.all(unasked));
  }

  /**
   * A peer that has armed the labels understands them from before; one that holds the cell does only once it has turned.
   * `turned`: what `start` has answered with.
   */
  async headStart(turned: Promise<unknown>): Promise<void> {
    if (this.#isFromFile) await this.acknowledged(TURNED_MS_MAX);
    else await within(HEAD_START_MS_MAX, turned);
  }

  /** Those that are waited for have answered, or `limit_ms` have passed; the sending goes on after that. */
  async acknowledged(limit_ms: number): Promise<void> {
    await within(limit_ms, Promise.all(this.awaited.map((one) => one.acknowledged)));
  }

  /** A peer that has no flow now is told, but nobody waits for it. */
  get awaited(): Announcement[] {
    const peers = new Set(this.#snapshot.flows.map(({ at }) => at.address));
    return this.#announcements.filter(({ peer }) => peers.has(peer));
  }

  /** Out of a file: there is no source that would tell the peers. They hold the cell as before. */
  async disarm(): Promise<void> {
    if (!this.#isFromFile) return;
    const farewells = this.#announcements.map((announcement) => announcement.farewell());
    await this.#needs.byes.sayUnder(this.#snapshot.cell, farewells, BYE_WAIT_MS_MAX, ARM_MS_MAX);
  }

  /** Where the agent is that was at `peer` when the cell was suspended. */
  placeOf(peer: string): string {
    return this.#announcements.find((one) => one.peer === peer)?.keys().address ?? peer;
  }
}

async function within(limit_ms: number, done: Promise<unknown>): Promise<void> {
  await Promise.race([done, sleep(limit_ms, undefined, { ref: false })]);
}
