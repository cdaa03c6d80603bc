/**
 * What one peer of one cell is told of new flows (FOLLOW): always the newest, and one datagram at a time. Of two that were
 * under way the later one could come first, and the peer takes none that is older.
 */
import { isDeepStrictEqual } from 'node:util';
import type { Label } from '../control/protocol.ts';
import { sendUntilAcknowledged } from '../h2o/cell-side.ts';
import type { H2oSocket } from '../h2o/socket.ts';
import { type Ended, endedMax } from '../wire/h2o-follow.ts';
import { isDrop } from '../wire/h2o-layout.ts';
import { createFollow, deriveSession } from '../wire/h2o-session.ts';
import type { PeerKeys } from './registry.ts';

/** A peer that does not answer so long is told again when the lease is renewed next. */
const TELL_MS_MAX = 60_000;
/** An answer is waited for so long at least before the same is said anew. */
const ANSWER_MS_MIN = 2_000;
/** Ports that a silent peer has not been told of, the newest. */
const ENDED_MAX = 8_192;

/** Seconds, 0 without labels. */
export type FollowContent = { readonly leaseSeconds: number; readonly labels: readonly Label[] };

type Said = { readonly content: FollowContent; readonly at: number; readonly abort: AbortController };

type Needs = {
  readonly socket: H2oSocket;
  /** What is to be said now; undefined while nothing may be. */
  readonly content: () => FollowContent | undefined;
  /** The pair with the peer, with a new epoch in `last` that is written down; undefined where there is none. */
  readonly takeKeys: () => PeerKeys | undefined;
  readonly warn: (error: unknown) => void;
};

export class FollowTalk {
  readonly #cell: Uint8Array;
  readonly #needs: Needs;
  readonly #stop = new AbortController();
  #ended: readonly Ended[] = [];
  #until: number | undefined;
  #said: Said | undefined;
  #again = false;
  #running: Promise<boolean> | undefined;

  constructor(cell: string, needs: Needs) {
    this.#cell = new Uint8Array(Buffer.from(cell, 'hex'));
    this.#needs = needs;
  }

  /** Until when the peer follows, as it has acknowledged; ms since the epoch. Undefined: it does not. */
  get until(): number | undefined {
    return this.#until;
  }

  /** Something is left to say, and nobody is at it. */
  get isWaiting(): boolean {
    return this.#ended.length > 0 && this.#running === undefined;
  }

  /** These are over; said with what is said next. */
  over(ended: readonly Ended[]): void {
    this.#ended = [...this.#ended, ...ended].slice(-ENDED_MAX);
  }

  /** Says what is to be said now. Whether the peer has acknowledged that, or what has taken its place since. */
  say(): Promise<boolean> {
    if (this.#said !== undefined && this.#isOutdated(this.#said)) this.#said.abort.abort();
    this.#again = true;
    this.#running ??= this.#sayAll();
    return this.#running;
  }

  stop(): void {
    this.#stop.abort();
  }

  #isOutdated({ content, at }: Said): boolean {
    return (
      performance.now() - at > ANSWER_MS_MIN || !isDeepStrictEqual(content, this.#needs.content() ?? content)
    );
  }

  async #sayAll(): Promise<boolean> {
    let isHeard = false;
    try {
      while (this.#again && !this.#stop.signal.aborted) {
        this.#again = false;
        isHeard = await this.#sayOnce();
      }
    } catch (error) {
      this.#needs.warn(error);
    } finally {
      this.#running = undefined;
    }
    return isHeard;
  }

  /** Of what has ended the peer then has its own deadlines, if it is there at all. */
  #giveUp(): false {
    this.#ended = [];
    return false;
  }

  async #sayOnce(): Promise<boolean> {
    const content = this.#needs.content();
    const keys = content && this.#needs.takeKeys();
    if (content === undefined || keys?.peerPublicKey === undefined) return false;
    const { address, epoch: pairEpoch, last: epoch, publicKey, secretKey, peerPublicKey } = keys;
    const pair = { cell: this.#cell, epoch: pairEpoch, cellPublicKey: publicKey, peerPublicKey };
    const session = deriveSession({ ...pair, secretKey, role: 'cell' });
    if (isDrop(session)) return this.#giveUp();
    const ended = this.#ended.slice(0, endedMax(content.labels.length));
    const datagram = createFollow(session, { epoch, ...content, ended });
    const at = Date.now();
    const abort = new AbortController();
    this.#said = { content, at: performance.now(), abort };
    const signal = AbortSignal.any([abort.signal, this.#stop.signal, AbortSignal.timeout(TELL_MS_MAX)]);
    const message = { session, sent: { type: 'follow', epoch }, datagram } as const;
    const ack = await sendUntilAcknowledged(this.#needs.socket, address, message, signal);
    this.#said = undefined;
    if (ack === undefined) return abort.signal.aborted || this.#stop.signal.aborted ? false : this.#giveUp();
    const told = new Set(ended);
    this.#ended = this.#ended.filter((one) => !told.has(one));
    this.#again ||= this.#ended.length > 0;
    this.#until = content.leaseSeconds === 0 ? undefined : at + content.leaseSeconds * 1_000;
    return true;
  }
}
