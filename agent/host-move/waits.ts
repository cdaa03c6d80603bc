/** What is tried again after a wait that is doubled each time: no wait outlives its use by much, and there are so many at most. */

/** The oldest is forgotten beyond this. */
const WAITS_MAX = 10_000;

type Wait = { readonly until: number; readonly ms: number };

export class Waits {
  readonly #waits = new Map<string, Wait>();
  readonly #msFirst: number;
  readonly #msLast: number;

  constructor(msFirst: number, msLast: number) {
    this.#msFirst = msFirst;
    this.#msLast = msLast;
  }

  /** `now`: of performance.now(), as below. */
  isDue(key: string, now = performance.now()): boolean {
    return (this.#waits.get(key)?.until ?? now) <= now;
  }

  failed(key: string, now = performance.now()): void {
    const before = this.#waits.get(key);
    const ms = before === undefined ? this.#msFirst : Math.min(before.ms * 2, this.#msLast);
    this.#waits.delete(key);
    const oldest = this.#waits.keys().next().value;
    if (this.#waits.size >= WAITS_MAX && oldest !== undefined) this.#waits.delete(oldest);
    this.#waits.set(key, { until: now + ms, ms });
  }

  succeeded(key: string): void {
    this.#waits.delete(key);
  }

  /** The rest of each key that begins so. */
  after(prefix: string): string[] {
    return [...this.#waits.keys()].flatMap((key) =>
      key.startsWith(prefix) ? [key.slice(prefix.length)] : [],
    );
  }
}
