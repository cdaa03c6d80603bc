/** One MOVE to one peer host: sealed once, sent until it is acknowledged, whatever becomes of the orchestrator. */
import type { PeerKeys } from '../cell/registry.ts';
import type { PeerSession } from '../control/protocol.ts';
import { sendUntilAcknowledged } from '../h2o/cell-side.ts';
import type { H2oSocket } from '../h2o/socket.ts';
import type { Label } from '../wire/h2o-layout.ts';
import { createMove, type KeyPair, type Session } from '../wire/h2o-session.ts';
import type { Farewell } from './bye.ts';

export type AnnouncementRecord = {
  readonly peer: string;
  readonly epoch: number;
  readonly session: Session;
  /** Sealed once: the same nonce must never seal anything else. */
  readonly datagram: Uint8Array;
  readonly next: KeyPair;
  readonly peerPublicKey: Uint8Array | undefined;
  /** The peer was told nothing before it. */
  readonly unasked?: boolean | undefined;
};

type AnnouncementOptions = {
  readonly signal?: AbortSignal | undefined;
  /** As long as its ACK may be: the peer may have moved while the cell was suspended. */
  readonly padded?: boolean;
};

export class Announcement {
  readonly #socket: H2oSocket;
  readonly #record: AnnouncementRecord;
  readonly #signal: AbortSignal;
  #peerPublicKey: Uint8Array | undefined;
  #ends: readonly Label[] = [];
  #acknowledged: Promise<void> | undefined;
  /** From the first sending to the ACK, in which the peer has flipped. */
  roundTripMs: number | undefined;

  private constructor(socket: H2oSocket, record: AnnouncementRecord, signal: AbortSignal) {
    this.#socket = socket;
    this.#signal = signal;
    this.#record = record;
    this.#peerPublicKey = record.peerPublicKey;
  }

  /** `labels`: those that this peer is to know. */
  static create(
    socket: H2oSocket,
    { peer, epoch, transaction, cell, tag, toPeer, toCell, unasked }: PeerSession,
    labels: readonly Label[],
    next: KeyPair,
    { signal = new AbortController().signal, padded = false }: AnnouncementOptions = {},
  ): Announcement {
    const session = { cell, tag, toPeer, toCell };
    const datagram = createMove(session, {
      epoch,
      padded,
      nextPublicKey: next.publicKey,
      transaction,
      labels,
    });
    const record = { peer, epoch, session, datagram, next, peerPublicKey: undefined, unasked };
    return new Announcement(socket, record, signal);
  }

  static adopt(
    socket: H2oSocket,
    record: AnnouncementRecord,
    signal: AbortSignal = new AbortController().signal,
  ): Announcement {
    return new Announcement(socket, record, signal);
  }

  record(): AnnouncementRecord {
    return { ...this.#record, peerPublicKey: this.#peerPublicKey };
  }

  get peer(): string {
    return this.#record.peer;
  }

  /** Until it has acknowledged, the peer would answer what comes from the new place with a reset. */
  get isUnasked(): boolean {
    return this.#record.unasked === true;
  }

  get isAcknowledged(): boolean {
    return this.#peerPublicKey !== undefined;
  }

  /** Settles when the peer has answered, or the trying has ended. */
  get acknowledged(): Promise<void> {
    return this.#acknowledged ?? this.start();
  }

  start(): Promise<void> {
    this.#acknowledged ??= this.send();
    return this.#acknowledged;
  }

  /** The same datagram once more, without waiting for its time. */
  nudge(): void {
    if (!this.isAcknowledged) this.#socket.send(this.#record.datagram, this.#record.peer);
  }

  /** Tries once, for as long as one message is tried. */
  async send(): Promise<void> {
    if (this.isAcknowledged) return;
    const { peer, epoch, session, datagram } = this.#record;
    const started = performance.now();
    const ack = await sendUntilAcknowledged(
      this.#socket,
      peer,
      { session, sent: { type: 'move', epoch }, datagram },
      this.#signal,
    );
    if (ack === undefined || ack.acknowledged !== 'move') return;
    this.roundTripMs = performance.now() - started;
    this.#peerPublicKey = ack.nextPublicKey;
    this.#ends = ack.ends ?? [];
  }

  /** Where the other ends have gone while the cell was suspended, once that is acknowledged. */
  get ends(): readonly Label[] {
    return this.#ends;
  }

  /** To the peer in the place of the MOVE, which will not be said. */
  farewell(): Farewell {
    const { peer, session, epoch } = this.#record;
    return { peer, session, epoch, reason: 'aborted' };
  }

  /** The keys of the next session with this peer. */
  keys(): PeerKeys {
    const { peer, epoch, next } = this.#record;
    const [moved] = this.#ends;
    return {
      // All that this pair is for has gone there.
      address: moved?.wire.address ?? peer,
      epoch,
      last: epoch,
      secretKey: next.secretKey,
      publicKey: next.publicKey,
      peerPublicKey: this.#peerPublicKey,
    };
  }
}
