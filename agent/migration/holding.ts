/** HOLD to the peers of a cell that is suspended: sent until it is acknowledged, the identical datagram each time. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { PeerSession } from '../control/protocol.ts';
import { sendUntilAcknowledged } from '../h2o/cell-side.ts';
import type { H2oSocket } from '../h2o/socket.ts';
import type { Label as WireLabel } from '../wire/h2o-layout.ts';
import { createHold } from '../wire/h2o-session.ts';

export class Holding {
  readonly #socket: H2oSocket;
  readonly #sessions: readonly PeerSession[];
  readonly #silent: Set<string>;
  readonly #padded: boolean;
  #ended: Promise<void> | undefined;
  /** By peer: where its ends of the cell's flows are, if they have moved since the cell was suspended. */
  readonly ends = new Map<string, readonly WireLabel[]>();

  /**
   * `sessions`: each with the epoch of its HOLD. A HOLD has no plaintext but zeros, so that it is the same whoever makes it.
   * `padded`: its answer may be as long as a datagram.
   */
  constructor(socket: H2oSocket, sessions: readonly PeerSession[], padded = false) {
    this.#socket = socket;
    this.#padded = padded;
    this.#sessions = sessions;
    this.#silent = new Set(sessions.map(({ peer }) => peer));
  }

  get sessions(): readonly PeerSession[] {
    return this.#sessions;
  }

  /** Peers that have not acknowledged yet. */
  get silent(): string[] {
    return [...this.#silent];
  }

  /** Settles when every peer has acknowledged, the trying has ended (10 minutes), or `signal` fires. */
  run(signal: AbortSignal): Promise<void> {
    this.#ended ??= Promise.all(this.#sessions.map((session) => this.#send(session, signal))).then(
      () => undefined,
    );
    return this.#ended;
  }

  /** The same, or `limit_ms` have passed; the sending goes on after that. @returns peers that are silent then. */
  async within(limit_ms: number, signal: AbortSignal): Promise<string[]> {
    await Promise.race([this.run(signal), sleep(limit_ms, undefined, { ref: false })]);
    return this.silent;
  }

  async #send(
    { peer, epoch, udp, cell, tag, toPeer, toCell }: PeerSession,
    signal: AbortSignal,
  ): Promise<void> {
    const session = { cell, tag, toPeer, toCell };
    const datagram = createHold(session, epoch, { ...(udp && { udp }), padded: this.#padded });
    const sent = { type: 'hold', epoch } as const;
    const ack = await sendUntilAcknowledged(this.#socket, peer, { session, sent, datagram }, signal);
    if (ack?.acknowledged === 'hold' && ack.ends !== undefined) this.ends.set(peer, ack.ends);
    if (ack !== undefined) this.#silent.delete(peer);
  }
}
