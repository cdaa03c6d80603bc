/** What somebody types at this command's terminal: passed on, kept while there is nobody to pass it to, or left to another process. */

/** Kept for a cell that is under way; what is typed beyond that is dropped, and said to be. */
export const KEPT_BYTES_MAX = 1024 * 1024;
const PASTE = '\u001b[200~';
const PASTE_END = '\u001b[201~';
const BELL = '\u0007';

/** The part of a terminal's standard input that is needed here. */
export type Typed = {
  readonly isTTY?: boolean;
  setRawMode?(on: boolean): unknown;
  on(event: 'data', listener: (keys: Buffer) => void): unknown;
  off(event: 'data', listener: (keys: Buffer) => void): unknown;
  resume(): unknown;
  pause(): unknown;
};

export class Keyboard {
  readonly #typed: Typed;
  readonly #ring: (text: string) => void;
  readonly #onKeys = (keys: Buffer) => this.#take(keys);
  #sink: ((keys: Buffer) => void) | undefined;
  #kept: Buffer[] = [];
  #keptBytes = 0;
  #dropped = 0;
  /** The end of what was passed on, in which a paste may begin or end. */
  #tail = '';
  #pasting = false;
  /** What is typed after its escape key while it is kept. */
  #escape: Buffer | undefined;
  #onLeave: (() => void) | undefined;

  constructor(typed: Typed, ring: (text: string) => void) {
    this.#typed = typed;
    this.#ring = ring;
  }

  /** Every key is a byte of input from here on. */
  start(): void {
    this.#typed.setRawMode?.(true);
    this.#typed.on('data', this.#onKeys);
    this.#typed.resume();
  }

  /** As it was. */
  stop(): void {
    this.#typed.off('data', this.#onKeys);
    this.#typed.setRawMode?.(false);
    this.#typed.pause();
  }

  /** `key`: as of `osmosis run --escape`. `onLeave` is called where it is typed, and d after it, while keys are kept. */
  leaveBy(key: string, onLeave: () => void): void {
    const code = key === 'none' ? undefined : key.toUpperCase().charCodeAt(2) & 0x1f;
    this.#escape = code === undefined ? undefined : Buffer.from([code, 0x64]);
    this.#onLeave = onLeave;
  }

  /** First what was kept, then whatever comes. */
  passTo(sink: (keys: Buffer) => void): void {
    this.#typed.resume();
    this.#sink = sink;
    const kept = this.take();
    if (kept.length > 0) this.#take(kept);
  }

  /** Another process reads the terminal. */
  leaveAlone(): void {
    this.#sink = undefined;
    this.#typed.pause();
  }

  /** From here on it is kept. What ends a paste that is under way is for the last sink; it begins again for the next. */
  keep(): Buffer {
    this.#sink = undefined;
    this.#typed.resume();
    if (!this.#pasting) return Buffer.alloc(0);
    this.#pasting = false;
    this.#keep(Buffer.from(PASTE));
    return Buffer.from(PASTE_END);
  }

  /** What was kept, which nobody else gets. */
  take(): Buffer {
    const kept = Buffer.concat(this.#kept);
    this.#kept = [];
    this.#keptBytes = 0;
    return kept;
  }

  /** What was taken, and nobody got after all: it comes before what was typed since. */
  giveBack(kept: Buffer): void {
    this.#kept.unshift(kept);
    this.#keptBytes += kept.length;
  }

  /** Bytes that there was no room for, since this was asked last. */
  takeDropped(): number {
    const dropped = this.#dropped;
    this.#dropped = 0;
    return dropped;
  }

  #take(keys: Buffer): void {
    if (this.#sink === undefined) {
      this.#keep(keys);
      return;
    }
    this.#watch(keys);
    this.#sink(keys);
  }

  #keep(keys: Buffer): void {
    if (this.#keptBytes + keys.length > KEPT_BYTES_MAX) {
      this.#dropped += keys.length;
      this.#ring(BELL);
      return;
    }
    this.#kept.push(keys);
    this.#keptBytes += keys.length;
    if (this.#escape === undefined || !Buffer.concat(this.#kept).includes(this.#escape)) return;
    this.take();
    this.#onLeave?.();
  }

  #watch(keys: Buffer): void {
    const text = this.#tail + keys.toString('latin1');
    const [begins, ends] = [text.lastIndexOf(PASTE), text.lastIndexOf(PASTE_END)];
    if (begins !== ends) this.#pasting = begins > ends;
    this.#tail = text.slice(1 - PASTE.length);
  }
}
