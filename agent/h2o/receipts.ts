/**
 * Receipts: what a peer side sends to the source of a HELLO before it looks at the HELLO. Whoever shows one reads what is
 * sent to that address, and did not only write it into its datagrams. Nothing is kept for those that have not shown any.
 */
import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto';
import { concatBytes, u32 } from '../wire/bytes.ts';
import type { Hello } from '../wire/h2o.ts';
import { RECEIPT_BYTES } from '../wire/h2o-layout.ts';

/** A receipt is good for this long at least, and for less than twice as long: addresses change hands. */
export const RECEIPT_MS_MIN = 600_000;
const SECRET_BYTES = 32;

/** What a receipt is for: whoever reads it on its way can show it for this pair and this identity only, which it has not. */
type Bearer = Pick<Hello, 'cell' | 'epoch' | 'publicKey' | 'identity'>;

export class Receipts {
  /** Of this run of the agent: after a restart everybody is asked again. */
  readonly #secret = randomBytes(SECRET_BYTES);

  /** For a HELLO that comes from `address`. */
  of(bearer: Bearer, address: string): Uint8Array {
    return this.#made(bearer, address, periodNow());
  }

  isShown(hello: Bearer & Pick<Hello, 'receipt'>, address: string): boolean {
    return [0, 1].some((past) =>
      timingSafeEqual(hello.receipt, this.#made(hello, address, periodNow() - past)),
    );
  }

  #made({ cell, epoch, publicKey, identity }: Bearer, address: string, period: number): Uint8Array {
    // Last, and as text: it has a zone where it is link-local.
    const from = new TextEncoder().encode(address);
    const bound = concatBytes(u32(period), cell, u32(epoch), publicKey, identity, from);
    const mac = createHmac('sha256', this.#secret).update(bound).digest();
    return new Uint8Array(mac.subarray(0, RECEIPT_BYTES));
  }
}

function periodNow(): number {
  return Math.floor(Date.now() / RECEIPT_MS_MIN);
}
