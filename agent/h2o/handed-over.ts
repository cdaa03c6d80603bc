/**
 * Suspended cells whose other ends were on this host and went on to another one: their keys went with them. What these cells
 * say to this host once they are back is passed on, as it is: this host can't open it any more. So are the answers.
 */

import { Store } from '../state/store.ts';
import { passedOn, type Sealed } from '../wire/h2o.ts';
import { ACKNOWLEDGED, HOPS_MAX } from '../wire/h2o-layout.ts';
import type { H2oSocket, Sender } from './socket.ts';
import { TokenBucket } from './token-bucket.ts';

/** A suspended cell may be away for long; its peers wait for it as long. 30 days. */
const HANDED_MS_MAX = 30 * 24 * 3_600_000;
/** The cell is back, and its MOVE was answered: it may not have heard that yet. */
const ANSWERED_MS_MAX = 30_000;
/** The oldest is forgotten beyond this. */
const HANDED_MAX = 4_096;
/** Messages that are passed on in a second, both ways, and the burst. */
const PASSED_PER_SECOND_MAX = 500;
const PASSED_BURST_MAX = 500;
/** An answer goes back to whoever was the last to ask, so long after that. */
const ANSWER_MS_MAX = 10_000;

/** `cell`, `tag` (of the pair's session): hex. `to`: address of the host that its other ends went to. */
export type Handed = { readonly cell: string; readonly tag: string; readonly to: string };
type Entry = Handed & { readonly at: number; readonly answeredAt?: number | undefined };
type Asker = Sender & { readonly at: number };

export class HandedOver {
  readonly #socket: Pick<H2oSocket, 'send'>;
  readonly #store: Store<Entry>;
  /** By name; the oldest first. */
  readonly #entries = new Map<string, Entry>();
  readonly #askers = new Map<string, Asker>();
  readonly #budget = new TokenBucket(PASSED_PER_SECOND_MAX, PASSED_BURST_MAX);

  constructor(socket: Pick<H2oSocket, 'send'>, directory: string) {
    this.#socket = socket;
    this.#store = new Store(directory);
  }

  load(): void {
    for (const entry of this.#store.all().toSorted((a, b) => a.at - b.at))
      this.#entries.set(nameOf(entry), entry);
  }

  add(handed: Handed, now = Date.now()): void {
    const name = nameOf(handed);
    this.#entries.delete(name);
    const [oldest] = this.#entries.keys();
    if (this.#entries.size >= HANDED_MAX && oldest !== undefined) this.#remove(oldest);
    this.#put({ ...handed, at: now });
  }

  #put(entry: Entry): void {
    this.#entries.set(nameOf(entry), entry);
    this.#store.put(nameOf(entry), entry);
  }

  /** It is this host's again. */
  takeBack(handed: Pick<Handed, 'cell' | 'tag'>): void {
    this.#remove(nameOf(handed));
  }

  sweep(now = Date.now()): void {
    const isOver = ({ at, answeredAt = Number.POSITIVE_INFINITY }: Entry) =>
      now - at > HANDED_MS_MAX || now - answeredAt > ANSWERED_MS_MAX;
    for (const [name, entry] of this.#entries) if (isOver(entry)) this.#remove(name);
  }

  /** A message from a cell side that nobody here has keys for. False: it is not of a cell that was handed over. */
  pass(sealed: Sealed, from: Sender, now = Date.now()): boolean {
    const name = nameIn(sealed);
    const entry = this.#entries.get(name);
    if (entry === undefined || sealed.hops >= HOPS_MAX) return false;
    if (!this.#budget.take()) return true;
    this.#askers.set(name, { ...from, at: now });
    this.#socket.send(passedOn(sealed), entry.to);
    return true;
  }

  /** What comes back goes to whoever has asked. */
  answer(ack: Sealed, from: Sender, now = Date.now()): void {
    const name = nameIn(ack);
    const [entry, asker] = [this.#entries.get(name), this.#askers.get(name)];
    if (asker === undefined || entry?.to !== from.address || ack.hops >= HOPS_MAX) return;
    if (now - asker.at > ANSWER_MS_MAX || !this.#budget.take()) return;
    this.#socket.send(passedOn(ack), asker.address, asker.port);
    // From then on the two know each other; what was answered may be asked once more.
    if (ack.detail === ACKNOWLEDGED.move) this.#put({ ...entry, answeredAt: now });
  }

  #remove(name: string): void {
    this.#entries.delete(name);
    this.#askers.delete(name);
    this.#store.remove(name);
  }
}

function nameOf({ cell, tag }: Pick<Handed, 'cell' | 'tag'>): string {
  return `${cell}-${tag}`;
}

function nameIn({ cell, tag }: Sealed): string {
  return nameOf({ cell: Buffer.from(cell).toString('hex'), tag: Buffer.from(tag).toString('hex') });
}
