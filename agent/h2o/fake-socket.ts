/** For tests: the shape of H2oSocket without a port, so that any address can be played. */
import { decode, encodeHello, type Hello, type Message } from '../wire/h2o.ts';
import { type DropReason, isDrop } from '../wire/h2o-layout.ts';
import type { H2oSocket, Receive, Sender } from './socket.ts';

export type Sent = {
  readonly datagram: Uint8Array;
  readonly message: Message;
  readonly address: string;
  readonly port: number;
  readonly source?: string | undefined;
};

export class FakeSocket {
  readonly sent: Sent[] = [];
  readonly drops: DropReason[] = [];
  readonly #receivers = new Set<Receive>();
  readonly #watchers: ((sent: Sent) => void)[] = [];

  /** As the code under test takes it: it uses listen, send, expect and drop alone. */
  asH2o(): H2oSocket {
    return this as unknown as H2oSocket;
  }

  get listeners(): number {
    return this.#receivers.size;
  }

  listen(receive: Receive): () => void {
    this.#receivers.add(receive);
    return () => this.#receivers.delete(receive);
  }

  send(datagram: Uint8Array, address: string, port = 18_018, source?: string): void {
    const sent = { datagram, message: messageOf(datagram), address, port, source };
    this.sent.push(sent);
    // As from a network: after the sender has returned.
    for (const watch of this.#watchers) queueMicrotask(() => watch(sent));
  }

  expect(): void {}

  drop(reason: DropReason): void {
    this.drops.push(reason);
  }

  onSend(watch: (sent: Sent) => void): void {
    this.#watchers.push(watch);
  }

  receive(datagram: Uint8Array, from: Sender): void {
    for (const receive of this.#receivers) receive(messageOf(datagram), from);
  }
}

/** A HELLO with the receipt that was sent in answer to it, if one was: as said by whoever reads what is sent there. */
export function withReceipt(hello: Uint8Array, answer: Uint8Array | undefined): Uint8Array | undefined {
  const [asked, answered] = [messageOf(hello), answer && messageOf(answer)];
  if (asked.type !== 'hello' || answered?.type !== 'welcome' || answered.receipt === undefined)
    return undefined;
  return encodeHello({ ...asked, receipt: answered.receipt });
}

/** What a WELCOME to it repeats, where that has no receipt. */
export function withoutReceipt({ receipt: _, ...hello }: Hello): Omit<Hello, 'receipt'> {
  return hello;
}

function messageOf(datagram: Uint8Array): Message {
  const decoded = decode(datagram);
  if (isDrop(decoded)) throw new Error(decoded.drop);
  return decoded.message;
}
