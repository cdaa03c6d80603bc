/** The cell side's half of receipts.ts: what the peer has sent to one address of this host, shown to it in every HELLO from there. */
import { equalBytes } from '../wire/bytes.ts';
import { RECEIPT_BYTES } from '../wire/h2o-layout.ts';

/** That one exchange takes: the first, another one where the first has run out, and some for whoever disturbs it. */
const RECEIPTS_MAX = 8;
const NONE = new Uint8Array(RECEIPT_BYTES);
/** Receipts for the keys of a pair, by the address of this host that they were sent to; empty: that of the route. */
export type HeldReceipts = Record<string, Uint8Array>;

export class ShownReceipt {
  readonly #held: HeldReceipts;
  readonly #source: string;
  #left = RECEIPTS_MAX;

  /** What is taken is kept in `held`. */
  constructor(held: HeldReceipts, source = '') {
    this.#held = held;
    this.#source = source;
  }

  /** Zeros where there is none. */
  get bytes(): Uint8Array {
    return this.#held[this.#source] ?? NONE;
  }

  get isHeld(): boolean {
    return this.#held[this.#source] !== undefined;
  }

  /** False where it is nothing new. */
  take(receipt: Uint8Array): boolean {
    if (equalBytes(receipt, this.bytes) || this.#left <= 0) return false;
    this.#left--;
    this.#held[this.#source] = receipt;
    return true;
  }
}
