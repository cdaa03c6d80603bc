/**
 * Tells when addresses or routes of this host have changed: ip-monitor(8). Links come and go with cells, so they are not
 * asked for; whoever listens looks now and then besides.
 */
import { createInterface } from 'node:readline';
import { execa } from 'execa';

/** A change comes in several steps (address gone, address there, route there): they are waited for. */
const SETTLE_MS = 100;
const SETTLE_MS_MAX = 1_000;
/** `ip monitor` that has ended is started again after this. */
const RESTART_MS = 2_000;

export class AddressWatch {
  readonly #changed: () => void;
  readonly #stop = new AbortController();
  #settling: NodeJS.Timeout | undefined;
  #firstAt = 0;

  constructor(changed: () => void) {
    this.#changed = changed;
  }

  start(): void {
    if (this.#stop.signal.aborted) return;
    // It must not outlive an agent that is killed.
    const monitor = execa('setpriv', ['--pdeathsig', 'KILL', 'ip', '-o', 'monitor', 'address', 'route'], {
      buffer: false,
      reject: false,
      stdin: 'ignore',
      stderr: 'ignore',
      cancelSignal: this.#stop.signal,
    });
    createInterface({ input: monitor.stdout }).on('line', () => this.#note());
    void monitor.then(() => {
      if (!this.#stop.signal.aborted) setTimeout(() => this.start(), RESTART_MS).unref();
    });
  }

  stop(): void {
    this.#stop.abort();
    clearTimeout(this.#settling);
  }

  #note(): void {
    const now = performance.now();
    if (this.#settling === undefined) this.#firstAt = now;
    clearTimeout(this.#settling);
    const wait = Math.max(0, Math.min(SETTLE_MS, this.#firstAt + SETTLE_MS_MAX - now));
    this.#settling = setTimeout(() => {
      this.#settling = undefined;
      this.#changed();
    }, wait);
  }
}
