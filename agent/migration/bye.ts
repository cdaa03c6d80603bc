/**
 * Tells peers that an announced move will not happen, or that the cell has ended. What they have not acknowledged yet is
 * written down: an agent that comes back goes on with the identical datagrams, until the same moment.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { PeerKeys } from '../cell/registry.ts';
import { sendUntilAcknowledged } from '../h2o/cell-side.ts';
import type { H2oSocket } from '../h2o/socket.ts';
import { Store } from '../state/store.ts';
import { type ByeReason, isDrop } from '../wire/h2o-layout.ts';
import { createBye, deriveSession, type Session } from '../wire/h2o-session.ts';

/**
 * A peer that misses all of it disarms by its own deadline, and forgets what has ended by looking at its own sockets. One that
 * has done so already has no keys left to answer an `ended` with.
 */
const BYE_MS_MAX: Record<ByeReason, number> = { aborted: 60_000, ended: 10_000 };
/** Of which the undoing itself waits only this long. */
const BYE_WAIT_MS_MAX = 1_000;
/** How long a new announcement waits for the BYE of the last one: until it is answered it may still be on its way. */
const BYE_OVER_MS_MAX = 5_000;
/** BYEs that are written down at once; what is above that is said all the same. */
const BYES_KEPT_MAX = 1_024;

type Bye = {
  readonly cell: string;
  /** Address of its agent. */
  readonly peer: string;
  /** The peer side's of the pair; undefined where only the session is known. */
  readonly peerPublicKey?: Uint8Array | undefined;
  readonly session: Session;
  readonly epoch: number;
  readonly datagram: Uint8Array;
  /** ms since 1970. */
  readonly until: number;
};

export type Farewell = {
  readonly peer: string;
  readonly session: Session;
  /** Above all that was used with this peer. */
  readonly epoch: number;
  readonly reason: ByeReason;
};

export class Byes {
  readonly #socket: H2oSocket;
  readonly #store: Store<Bye>;
  /** Not acknowledged yet. */
  readonly #unanswered = new Map<Bye, Promise<unknown>>();

  constructor(socket: H2oSocket, directory: string) {
    this.#socket = socket;
    this.#store = new Store(directory);
  }

  /** What an agent before this one has said in vain so far. */
  recover(): void {
    for (const bye of this.#store.all()) void this.#send(bye);
  }

  /**
   * A BYE that overtakes the HELLO of a later try would take back what that has armed: so nothing is announced to a peer
   * under keys under which it has not acknowledged the last BYE. False where it does not within BYE_OVER_MS_MAX.
   */
  async isOver(cell: string, { address, peerPublicKey }: PeerKeys, signal: AbortSignal): Promise<boolean> {
    const waiting = () =>
      [...this.#unanswered].filter(
        ([bye]) => bye.cell === cell && bye.peer === address && isSameKey(bye.peerPublicKey, peerPublicKey),
      );
    const over = Promise.all(waiting().map(([, answered]) => answered));
    await Promise.race([over, sleep(BYE_OVER_MS_MAX, undefined, { signal, ref: false })]);
    return waiting().length === 0;
  }

  /** Takes a new epoch for each of `keys`: `save` must write them down before anything is sent. */
  async say(
    cell: string,
    keys: readonly PeerKeys[],
    save: () => void,
    reason: ByeReason = 'aborted',
  ): Promise<void> {
    for (const each of keys) each.last++;
    save();
    const byes = keys.flatMap((each) => byeOf(cell, each, reason) ?? []);
    await this.#within(byes, BYE_WAIT_MS_MAX);
  }

  /** With nothing but the session known. @returns peers that have not acknowledged within `wait_ms`; the saying goes on. */
  async sayUnder(
    cell: string,
    farewells: readonly Farewell[],
    wait_ms: number,
    limit_ms: number,
  ): Promise<string[]> {
    const until = Date.now() + limit_ms;
    const byes = farewells.map(({ peer, session, epoch, reason }) => {
      const datagram = createBye(session, { epoch, reason });
      return { cell, peer, session, epoch, datagram, until };
    });
    await this.#within(byes, wait_ms);
    return byes.filter((bye) => this.#unanswered.has(bye)).map(({ peer }) => peer);
  }

  async #within(byes: readonly Bye[], wait_ms: number): Promise<void> {
    for (const bye of byes) this.#keep(bye);
    const told = Promise.all(byes.map((bye) => this.#send(bye)));
    await Promise.race([told, sleep(wait_ms, undefined, { ref: false })]);
  }

  /** An undoing must not fail because nothing can be written down: what is said by this agent is said all the same. */
  #keep(bye: Bye): void {
    if (this.#unanswered.size >= BYES_KEPT_MAX) return;
    try {
      this.#store.put(nameOf(bye), bye);
    } catch {
      this.#store.remove(nameOf(bye));
    }
  }

  #send(bye: Bye): Promise<unknown> {
    const { peer, session, epoch, datagram, until } = bye;
    const signal = AbortSignal.timeout(Math.max(until - Date.now(), 0));
    const sent = { type: 'bye', epoch } as const;
    const said = sendUntilAcknowledged(this.#socket, peer, { session, sent, datagram }, signal);
    const over = said.finally(() => {
      this.#unanswered.delete(bye);
      this.#store.remove(nameOf(bye));
    });
    this.#unanswered.set(bye, over);
    return over;
  }
}

function byeOf(cell: string, keys: PeerKeys, reason: ByeReason): Bye | undefined {
  const { address: peer, last: epoch, publicKey: cellPublicKey, secretKey, peerPublicKey } = keys;
  if (peerPublicKey === undefined) return undefined;
  const session = deriveSession({
    cell: Buffer.from(cell, 'hex'),
    epoch: keys.epoch,
    cellPublicKey,
    peerPublicKey,
    secretKey,
    role: 'cell',
  });
  if (isDrop(session)) return undefined;
  const datagram = createBye(session, { epoch, reason });
  return { cell, peer, peerPublicKey, session, epoch, datagram, until: Date.now() + BYE_MS_MAX[reason] };
}

/** A peer that shows another key has forgotten the pair that the BYE is of: then it can do nothing any more. */
function isSameKey(a: Uint8Array | undefined, b: Uint8Array | undefined): boolean {
  return a !== undefined && b !== undefined && Buffer.compare(a, b) === 0;
}

function nameOf({ cell, peer, epoch }: Bye): string {
  return `${cell}-${peer}-${epoch}`;
}
