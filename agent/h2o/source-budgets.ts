/** Budgets by the address that datagrams come from: whoever floods uses up its own, and nobody else's. */
import { TokenBucket } from './token-bucket.ts';

/** Sources remembered at once; whoever has been silent for longest is forgotten first, and begins with a full budget. */
export const SOURCES_MAX = 1_024;

export class SourceBudgets {
  readonly #perSecond: number;
  readonly #burst: number;
  /** The longest silent first. */
  readonly #buckets = new Map<string, TokenBucket>();

  /** So many events a second of each source, and a burst. */
  constructor(perSecond: number, burst: number) {
    this.#perSecond = perSecond;
    this.#burst = burst;
  }

  get sources(): number {
    return this.#buckets.size;
  }

  /** False where the source has used its budget up: the event is to be dropped. */
  take(address: string): boolean {
    const bucket = this.#buckets.get(address) ?? new TokenBucket(this.#perSecond, this.#burst);
    this.#buckets.delete(address);
    this.#buckets.set(address, bucket);
    if (this.#buckets.size > SOURCES_MAX) this.#forgetOne();
    return bucket.take();
  }

  #forgetOne(): void {
    for (const address of this.#buckets.keys()) {
      this.#buckets.delete(address);
      return;
    }
  }
}
