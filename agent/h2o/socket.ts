/** The agent's H2O port: datagrams in, decoded and counted, handed to whoever they are for. */
import { createSocket, type Socket } from 'node:dgram';
import { once } from 'node:events';
import { messageOf, OsmosisError } from '../error.ts';
import { decode, type Message } from '../wire/h2o.ts';
import { type DropReason, H2O_PORT, isDrop } from '../wire/h2o-layout.ts';

/** A burst of HELLO parts for 10,000 flows fits; the kernel may grant less. */
const RECEIVE_BUFFER_BYTES = 4 * 1024 * 1024;
/** Addresses of this host that it sends from by name; from others, as the route has it. */
const SOURCES_MAX = 64;

export type Sender = { readonly address: string; readonly port: number };
export type Receive = (message: Message, from: Sender) => void;

export class H2oSocket {
  readonly drops = new Map<DropReason, number>();
  #socket: Socket | undefined;
  /** By the address that they are bound to. */
  readonly #sources = new Map<string, Promise<Socket | undefined>>();
  #port = H2O_PORT;
  readonly #receivers = new Set<Receive>();

  /** @throws OsmosisError AGENT_UNREACHABLE where the port is taken. */
  async open(port: number = H2O_PORT): Promise<void> {
    this.#port = port;
    try {
      // Another agent shares its port with its own sockets, as we do: this one finds it taken all the same.
      const probe = createSocket('udp6');
      await bound(probe, port, '::');
      probe.close();
      this.#socket = await this.#listenOn('::');
    } catch (cause) {
      throw new OsmosisError(
        'AGENT_UNREACHABLE',
        `can't listen on UDP port ${port}: ${messageOf(cause)}; is another agent running?`,
        { cause },
      );
    }
  }

  /** Only this user's sockets can share the port. */
  async #listenOn(address: string): Promise<Socket> {
    const socket = createSocket({ type: 'udp6', recvBufferSize: RECEIVE_BUFFER_BYTES, reusePort: true });
    socket.on('message', (datagram, { address: sender, port: from }) => {
      this.#receive(new Uint8Array(datagram), { address: sender.replace(/^::ffff:/, ''), port: from });
    });
    await bound(socket, this.#port, address);
    // ICMP answers of hosts without an agent come back as errors of an unconnected socket on some kernels.
    socket.on('error', () => undefined);
    return socket;
  }

  /** Every message goes to every receiver; the returned function takes `receive` off again. */
  listen(receive: Receive): () => void {
    this.#receivers.add(receive);
    return () => this.#receivers.delete(receive);
  }

  /**
   * One datagram, best effort: whoever needs an answer sends again.
   * @param source the address of this host to send it from; by default the one that the route prefers
   */
  send(datagram: Uint8Array, address: string, port: number = H2O_PORT, source?: string): void {
    const transmit = (socket = this.#socket) =>
      socket?.send(datagram, port, mapped(address), () => undefined);
    if (source === undefined) transmit();
    else void this.#from(source).then(transmit);
  }

  /** Undefined where it can't be had, such as an address that this host has no longer. */
  #from(source: string): Promise<Socket | undefined> {
    const known = this.#sources.get(source);
    if (known !== undefined) return known;
    if (this.#sources.size >= SOURCES_MAX) return Promise.resolve(undefined);
    const made = this.#listenOn(mapped(source)).catch(() => {
      this.#sources.delete(source);
      return undefined;
    });
    this.#sources.set(source, made);
    return made;
  }

  drop(reason: DropReason): void {
    this.drops.set(reason, (this.drops.get(reason) ?? 0) + 1);
  }

  async close(): Promise<void> {
    const sockets = [this.#socket, ...(await Promise.all(this.#sources.values()))];
    this.#socket = undefined;
    this.#sources.clear();
    const closed = sockets.map((socket) => socket && once(socket, 'close'));
    for (const socket of sockets) socket?.close();
    await Promise.all(closed);
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

async function bound(socket: Socket, port: number, address: string): Promise<void> {
  socket.bind(port, address);
  await once(socket, 'listening');
}

/** An IPv6 socket has IPv4 addresses so. */
function mapped(address: string): string {
  return address.includes(':') ? address : `::ffff:${address}`;
}
