/** Tells peers that an announced move will not happen, or that the cell has ended. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { PeerKeys } from '../cell/registry.ts';
import { sendUntilAcknowledged } from '../h2o/cell-side.ts';
import type { H2oSocket } from '../h2o/socket.ts';
import { type ByeReason, isDrop } from '../wire/h2o-layout.ts';
import { createBye, deriveSession } from '../wire/h2o-session.ts';

/** A peer that misses all of it disarms by its own deadline. */
const BYE_MS_MAX = 60_000;
/** Of which the undoing itself waits only this long. */
const BYE_WAIT_MS_MAX = 1_000;

/** Takes a new epoch for each of `keys`: `save` must write them down before anything is sent. */
export async function sayBye(
  socket: H2oSocket,
  cell: string,
  keys: readonly PeerKeys[],
  save: () => void,
  reason: ByeReason = 'aborted',
): Promise<void> {
  for (const each of keys) each.last++;
  save();
  const signal = AbortSignal.timeout(BYE_MS_MAX);
  const told = Promise.all(
    keys.map((each) => sayByeTo(socket, Buffer.from(cell, 'hex'), each, reason, signal)),
  );
  await Promise.race([told, sleep(BYE_WAIT_MS_MAX, undefined, { ref: false })]);
}

async function sayByeTo(
  socket: H2oSocket,
  cell: Uint8Array,
  keys: PeerKeys,
  reason: ByeReason,
  signal: AbortSignal,
): Promise<void> {
  const { address, epoch: pairEpoch, last: epoch, publicKey: cellPublicKey, secretKey, peerPublicKey } = keys;
  if (peerPublicKey === undefined) return;
  const session = deriveSession({
    cell,
    epoch: pairEpoch,
    cellPublicKey,
    peerPublicKey,
    secretKey,
    role: 'cell',
  });
  if (isDrop(session)) return;
  const datagram = createBye(session, { epoch, reason });
  await sendUntilAcknowledged(socket, address, { session, sent: { type: 'bye', epoch }, datagram }, signal);
}
