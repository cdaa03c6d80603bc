/** Messages to the peer side that wait for their turn. */
import type { Hello, Sealed } from '../wire/h2o.ts';
import type { Sender } from './socket.ts';

export type Waiting = { readonly message: Hello | Sealed; readonly from: Sender };

/**
 * In the order in which they came, except that a MOVE goes first: its cell stands still, whereas the parts of another
 * cell's HELLO may take a second. A HELLO part that waits already is not taken twice: its sender was only impatient.
 */
export class WaitingMessages {
  readonly #max: number;
  readonly #moves: Waiting[] = [];
  readonly #others = new Map<string, Waiting>();
  #hellos = 0;
  #count = 0;

  constructor(max: number) {
    this.#max = max;
  }

  get hasHello(): boolean {
    return this.#hellos > 0;
  }

  /** False where it was dropped: there is one take for each that was added. */
  add(message: Hello | Sealed, from: Sender): boolean {
    if (this.#moves.length + this.#others.size >= this.#max) return false;
    if (message.type === 'move') {
      this.#moves.push({ message, from });
      return true;
    }
    const key = message.type === 'hello' ? partKey(message, from) : String(this.#count++);
    if (this.#others.has(key)) return false;
    this.#others.set(key, { message, from });
    if (message.type === 'hello') this.#hellos++;
    return true;
  }

  take(): Waiting | undefined {
    const move = this.#moves.shift();
    if (move !== undefined) return move;
    const [first] = this.#others;
    if (first === undefined) return undefined;
    const [key, waiting] = first;
    this.#others.delete(key);
    if (waiting.message.type === 'hello') this.#hellos--;
    return waiting;
  }
}

function partKey({ cell, transaction, part }: Hello, { address, port }: Sender): string {
  const ids = [cell, transaction].map((bytes) => Buffer.from(bytes).toString('hex'));
  return `${ids.join(' ')} ${part} ${address} ${port}`;
}
