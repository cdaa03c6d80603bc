/** The agent's H2O port: datagrams in, decoded and counted, handed to whoever they are for. */
import { createSocket, type Socket } from 'node:dgram';
import { once } from 'node:events';
import { messageOf, OsmosisError } from '../error.ts';
import { decode, type Message } from '../wire/h2o.ts';
import { type DropReason, H2O_PORT, isDrop } from '../wire/h2o-layout.ts';

/** A burst of HELLO parts for 10,000 flows fits; the kernel may grant less. */
const RECEIVE_BUFFER_BYTES = 4 * 1024 * 1024;

export type Sender = { readonly address: string; readonly port: number };
export type Receive = (message: Message, from: Sender) => void;

export class H2oSocket {
  readonly drops = new Map<DropReason, number>();
  #socket: Socket | undefined;
  readonly #receivers = new Set<Receive>();

  /** @throws OsmosisError AGENT_UNREACHABLE where the port is taken. */
  async open(port: number = H2O_PORT): Promise<void> {
    const socket = createSocket({ type: 'udp6', recvBufferSize: RECEIVE_BUFFER_BYTES });
    socket.on('message', (datagram, { address, port: from }) => {
      this.#receive(new Uint8Array(datagram), { address: address.replace(/^::ffff:/, ''), port: from });
    });
    try {
      socket.bind(port, '::');
      await once(socket, 'listening');
    } catch (cause) {
      throw new OsmosisError(
        'AGENT_UNREACHABLE',
        `can't listen on UDP port ${port}: ${messageOf(cause)}; is another agent running?`,
        { cause },
      );
    }
    // ICMP answers of hosts without an agent come back as errors of an unconnected socket on some kernels.
    socket.on('error', () => undefined);
    this.#socket = socket;
  }

  /** Every message goes to every receiver; the returned function takes `receive` off again. */
  listen(receive: Receive): () => void {
    this.#receivers.add(receive);
    return () => this.#receivers.delete(receive);
  }

  /** One datagram, best effort: whoever needs an answer sends again. */
  send(datagram: Uint8Array, address: string, port: number = H2O_PORT): void {
    const to = address.includes(':') ? address : `::ffff:${address}`;
    this.#socket?.send(datagram, port, to, () => undefined);
  }

  drop(reason: DropReason): void {
    this.drops.set(reason, (this.drops.get(reason) ?? 0) + 1);
  }

  async close(): Promise<void> {
    const socket = this.#socket;
    this.#socket = undefined;
    if (socket === undefined) return;
    socket.close();
    await once(socket, 'close');
  }

  #receive(datagram: Uint8Array, from: Sender): void {
    const decoded = decode(datagram);
    if (isDrop(decoded)) {
      this.drop(decoded.drop);
      return;
    }
    for (const receive of this.#receivers) receive(decoded.message, from);
  }
}
