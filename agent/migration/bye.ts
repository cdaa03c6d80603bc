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

/** How long a new announcement waits for the BYE of the last one: until it is answered it may still be on its way. */
const BYE_OVER_MS_MAX = 5_000;

/** BYEs that have not been acknowledged yet. */
const unanswered = new Set<{
  readonly cell: string;
  readonly keys: PeerKeys;
  readonly over: Promise<void>;
}>();

/**
 * A BYE that overtakes the HELLO of a later try would take back what that has armed: so nothing is announced to a peer
 * under keys under which it has not acknowledged the last BYE. False where it does not within BYE_OVER_MS_MAX.
 */
export async function isByeOver(
  cell: string,
  { address, peerPublicKey }: PeerKeys,
  signal: AbortSignal,
): Promise<boolean> {
  const waiting = () =>
    [...unanswered].filter(
      ({ cell: of, keys }) =>
        of === cell && keys.address === address && isSameKey(keys.peerPublicKey, peerPublicKey),
    );
  const over = Promise.all(waiting().map((bye) => bye.over));
  await Promise.race([over, sleep(BYE_OVER_MS_MAX, undefined, { signal, ref: false })]);
  return waiting().length === 0;
}

/** A peer that shows another key has forgotten the pair that the BYE is of: then it can do nothing any more. */
function isSameKey(a: Uint8Array | undefined, b: Uint8Array | undefined): boolean {
  return a !== undefined && b !== undefined && Buffer.compare(a, b) === 0;
}

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
  const said = sendUntilAcknowledged(
    socket,
    address,
    { session, sent: { type: 'bye', epoch }, datagram },
    signal,
  );
  const over = said.then(() => undefined);
  const bye = { cell: hex(cell), keys: { ...keys }, over };
  unanswered.add(bye);
  await over.finally(() => unanswered.delete(bye));
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex');
}
