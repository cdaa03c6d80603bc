/** Messages to the peer side that wait for their turn. */
import type { Hello, Sealed } from '../wire/h2o.ts';
import type { Sender } from './socket.ts';

export type Waiting = { readonly message: Hello | Sealed; readonly from: Sender };
/** Of one source, in the order in which they came. */
type Queue = { readonly moves: Waiting[]; readonly others: Map<string, Waiting> };

/**
 * The sources take turns, so that none waits for what another one sends in mass. Of one source a MOVE goes first, and
 * before the others' HELLOs: its cell stands still, whereas the parts of a HELLO may take a second. A HELLO part that waits
 * already is not taken twice: its sender was only impatient.
 */
export class WaitingMessages {
  readonly #max: number;
  readonly #perSourceMax: number;
  /** By address; whose turn was longest ago first. */
  readonly #queues = new Map<string, Queue>();
  #hellos = 0;
  #moves = 0;
  #size = 0;
  #count = 0;

  constructor(max: number, perSourceMax: number) {
    this.#max = max;
    this.#perSourceMax = perSourceMax;
  }

  get hasHello(): boolean {
    return this.#hellos > 0;
  }

  /** Whether this part waits already. */
  hasPart(hello: Hello, from: Sender): boolean {
    return this.#queues.get(from.address)?.others.has(partKey(hello, from)) === true;
  }

  /** False where it was dropped: there is one take for each that was added. */
  add(message: Hello | Sealed, from: Sender): boolean {
    const queue: Queue = this.#queues.get(from.address) ?? { moves: [], others: new Map() };
    const { moves, others } = queue;
    if (this.#size >= this.#max || moves.length + others.size >= this.#perSourceMax) return false;
    const key = message.type === 'hello' ? partKey(message, from) : String(this.#count++);
    if (others.has(key)) return false;
    if (message.type === 'move') moves.push({ message, from });
    else others.set(key, { message, from });
    this.#queues.set(from.address, queue);
    this.#size++;
    if (message.type === 'hello') this.#hellos++;
    if (message.type === 'move') this.#moves++;
    return true;
  }

  take(): Waiting | undefined {
    for (const [address, { moves, others }] of this.#queues) {
      if (this.#moves > 0 && moves.length === 0) continue;
      const [first] = others;
      const waiting = moves.shift() ?? first?.[1];
      if (waiting === undefined) continue;
      if (waiting === first?.[1]) others.delete(first[0]);
      this.#taken(address, waiting);
      return waiting;
    }
    return undefined;
  }

  /** The source goes to the end of the line, or, with nothing left, out of it. */
  #taken(address: string, { message }: Waiting): void {
    const queue = this.#queues.get(address);
    this.#queues.delete(address);
    if (queue !== undefined && queue.moves.length + queue.others.size > 0) this.#queues.set(address, queue);
    this.#size--;
    if (message.type === 'hello') this.#hellos--;
    if (message.type === 'move') this.#moves--;
  }
}

function partKey({ cell, transaction, part }: Hello, { address, port }: Sender): string {
  const ids = [cell, transaction].map((bytes) => Buffer.from(bytes).toString('hex'));
  return `${ids.join(' ')} ${part} ${address} ${port}`;
}
