/**
 * A peer side that believes a cell's host no longer says so without being asked: that host may have its agreement, and would
 * move the cell without a word. Anybody can forge it, and it can be lost: it makes the cell side ask again, no more.
 */
import { encodeWelcome } from '../wire/h2o.ts';
import {
  FINGERPRINT_BYTES,
  IDENTITY_BYTES,
  KEY_BYTES,
  SIGNATURE_BYTES,
  TRANSACTION_BYTES,
} from '../wire/h2o-layout.ts';
import type { H2oSocket } from './socket.ts';

/** When it is said, after the decision: it is not acknowledged. */
const SAID_AT_MS = [0, 200, 1_000];

/** `cell`: its id in hex. `address`: of the host that has announced it here. */
export function sayDistrust(socket: Pick<H2oSocket, 'send'>, cell: string, address: string): void {
  const nothing = (bytes: number) => new Uint8Array(bytes);
  const datagram = encodeWelcome({
    type: 'welcome',
    cell: Buffer.from(cell, 'hex'),
    transaction: nothing(TRANSACTION_BYTES),
    epoch: 0,
    publicKey: nothing(KEY_BYTES),
    untrusted: { known: nothing(FINGERPRINT_BYTES) },
    identity: nothing(IDENTITY_BYTES),
    signature: nothing(SIGNATURE_BYTES),
    part: 0,
    parts: 1,
    claimable: [false],
  });
  for (const at of SAID_AT_MS)
    if (at === 0) socket.send(datagram, address);
    else setTimeout(() => socket.send(datagram, address), at).unref();
}

/** `heard`: the cell, and the address of the peer that says so. The returned function ends it. */
export function onDistrust(
  socket: Pick<H2oSocket, 'listen'>,
  heard: (cell: string, peer: string) => void,
): () => void {
  return socket.listen((message, { address }) => {
    if (message.type === 'welcome' && message.untrusted !== undefined)
      heard(Buffer.from(message.cell).toString('hex'), address);
  });
}
