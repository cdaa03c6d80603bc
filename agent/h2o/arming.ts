/**
 * The cell side's arming of labels that no HELLO could arm: an ARM in parts, each sent until it is acknowledged. All of it is
 * written down before any of it is sent, since a part must never say two things under one epoch.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { newTransaction } from '../wire/h2o.ts';
import { packLabels } from '../wire/h2o-arm.ts';
import { ARM_PART_ACKNOWLEDGED, isDrop, type Label } from '../wire/h2o-layout.ts';
import { consumeAck, createArm, type Session } from '../wire/h2o-session.ts';
import type { H2oSocket } from './socket.ts';

/** Parts that are on their way at once: what a peer's socket holds while its agent is busy. */
const PARTS_AT_ONCE_MAX = 32;
const RETRY_FIRST_MS = 50;
const RETRY_LAST_MS = 500;

export type Arming = {
  /** Address of the peer's agent. */
  readonly peer: string;
  readonly session: Session;
  readonly epoch: number;
  /** What the MOVE after it names. */
  readonly transaction: Uint8Array;
  /** By part. */
  readonly datagrams: readonly Uint8Array[];
};

/**
 * `epoch`: above all that was used with this peer, and below that of the MOVE.
 * @throws OsmosisError PREFLIGHT where there are more labels than it can say
 */
export function createArming(
  peer: string,
  session: Session,
  epoch: number,
  labels: readonly Label[],
): Arming {
  const transaction = newTransaction();
  const packed = packLabels(labels);
  const datagrams = packed.map((its, part) =>
    createArm(session, { epoch, part, transaction, parts: packed.length, labels: its }),
  );
  return { peer, session, epoch, transaction, datagrams };
}

/** Settles when the peer has acknowledged all parts: true; or when `signal` fires: false. */
export async function sendArming(
  socket: H2oSocket,
  { peer, session, epoch, datagrams }: Arming,
  signal: AbortSignal,
): Promise<boolean> {
  const waiting = new Map(datagrams.entries());
  let wake: (() => void) | undefined;
  let window = 0;
  socket.expect(peer);
  const stop = socket.listen((message) => {
    if (message.type !== 'ack') return;
    const part = message.detail - ARM_PART_ACKNOWLEDGED;
    if (!waiting.has(part) || isDrop(consumeAck(session, { type: 'arm', epoch, part }, message))) return;
    waiting.delete(part);
    window -= 1;
    if (window === 0) wake?.();
  });
  try {
    let wait = RETRY_FIRST_MS;
    while (waiting.size > 0 && !signal.aborted) {
      const left = waiting.size;
      const answered = new Promise<void>((resolve) => {
        wake = resolve;
      });
      const sent = [...waiting.values()].slice(0, PARTS_AT_ONCE_MAX);
      window = sent.length;
      for (const datagram of sent) socket.send(datagram, peer);
      await Promise.race([answered, sleep(wait, undefined, { signal, ref: false })]);
      wait = waiting.size < left ? RETRY_FIRST_MS : Math.min(wait * 2, RETRY_LAST_MS);
    }
  } catch (error) {
    if (!signal.aborted) throw error;
  } finally {
    stop();
  }
  return waiting.size === 0;
}
