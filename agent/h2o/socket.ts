/** The agent's H2O port: datagrams in, decoded and counted, handed to whoever they are for. */
import { createSocket, type Socket } from 'node:dgram';
import { once } from 'node:events';
import { messageOf, OsmosisError } from '../error.ts';
import { decode, type Message } from '../wire/h2o.ts';
import {
  type DropReason,
  H2O_PORT,
  isDrop,
  MESSAGE_TYPES,
  type MessageType,
  nameOf,
  TYPE_AT,
} from '../wire/h2o-layout.ts';
import { OwnSockets } from './own-sockets.ts';
import { SourceBudgets } from './source-budgets.ts';

/** A burst of HELLO parts for 10,000 flows fits; the kernel may grant less. */
const RECEIVE_BUFFER_BYTES = 4 * 1024 * 1024;

/**
 * Datagrams a second of one source that are decoded, and the burst: the parts of some cells of 10,000 connections at once.
 * What is above costs a look at its sender's address.
 */
const DATAGRAMS_PER_SOURCE_SECOND_MAX = 1_000;
const DATAGRAMS_PER_SOURCE_BURST_MAX = 1_000;

/** Addresses of this host that it sends from by name; from others, as the route has it. */
const SOURCES_MAX = 64;

/** Sockets of their own for those that answers or messages are expected of, and for those that send more than their share. */
const EXPECTED_MAX = 256;
const CROWDING_MAX = 64;

export type Sender = { readonly address: string; readonly port: number };
export type Receive = (message: Message, from: Sender) => void;

export class H2oSocket {
  readonly drops = new Map<DropReason, number>();
  /** Datagrams since the agent has started; received: those that were looked at. */
  sent = 0;
  received = 0;
  /** The same by type, of those that have one. */
  readonly sentOf = new Map<MessageType, number>();
  readonly receivedOf = new Map<MessageType, number>();
  readonly #budgets = new SourceBudgets(DATAGRAMS_PER_SOURCE_SECOND_MAX, DATAGRAMS_PER_SOURCE_BURST_MAX);
  #socket: Socket | undefined;
  /** By the address of this host that they are bound to. */
  readonly #sources = new Map<string, Promise<Socket | undefined>>();
  #port = H2O_PORT;
  readonly #receivers = new Set<Receive>();
  readonly #failed: (error: unknown) => void;
  readonly #expected = new OwnSockets(EXPECTED_MAX, (socket) => this.#listenTo(socket));
  readonly #crowding = new OwnSockets(CROWDING_MAX, (socket) => this.#listenTo(socket));

  /** `failed`: hears why a receiver could not take a message, such as that nothing can be written down. */
  constructor(failed: (error: unknown) => void) {
    this.#failed = failed;
  }

  /** @throws OsmosisError AGENT_UNREACHABLE where the port is taken. */
  async open(port: number = H2O_PORT): Promise<void> {
    try {
      // Alone first: the sockets that share the port later on must all be ours.
      await closed(await bound(port, '::', false));
      const socket = await this.#listenOn('::', port);
      this.#socket = socket;
      this.#port = socket.address().port;
    } catch (cause) {
      throw new OsmosisError(
        'AGENT_UNREACHABLE',
        `can't listen on UDP port ${port}: ${messageOf(cause)}; is another agent running?`,
        { cause },
      );
    }
  }

  /** Only sockets of this user can share the port. */
  async #listenOn(address: string, port: number): Promise<Socket> {
    const socket = await bound(port, address, true);
    this.#listenTo(socket);
    // ICMP answers of hosts without an agent come back as errors of an unconnected socket on some kernels.
    socket.on('error', () => undefined);
    return socket;
  }

  /** From now on `address` is waited for: what its agent says is not lost among what others say. */
  expect(address: string): void {
    if (this.#socket !== undefined) this.#expected.open(mapped(address), H2O_PORT, this.#port);
  }

  #listenTo(socket: Socket): void {
    socket.on('message', (datagram, { address, port: from }) => {
      if (!this.#budgets.take(address)) return this.#crowding.open(address, from, this.#port);
      this.#receive(new Uint8Array(datagram), { address: address.replace(/^::ffff:/, ''), port: from });
    });
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
    const transmit = (socket = this.#socket) => {
      this.sent++;
      const type = nameOf(MESSAGE_TYPES, datagram[TYPE_AT] ?? 0);
      if (type !== undefined) countOne(this.sentOf, type);
      socket?.send(datagram, port, mapped(address), () => undefined);
    };
    if (source === undefined) transmit();
    else void this.#from(source).then(transmit);
  }

  /** Undefined where it can't be had, such as an address that this host has no longer. */
  #from(source: string): Promise<Socket | undefined> {
    const known = this.#sources.get(source);
    if (known !== undefined) return known;
    if (this.#sources.size >= SOURCES_MAX) return Promise.resolve(undefined);
    const made = this.#listenOn(mapped(source), this.#port).catch(() => {
      this.#sources.delete(source);
      return undefined;
    });
    this.#sources.set(source, made);
    return made;
  }

  drop(reason: DropReason): void {
    countOne(this.drops, reason);
  }

  async close(): Promise<void> {
    const sockets = [this.#socket, ...(await Promise.all(this.#sources.values()))];
    this.#socket = undefined;
    this.#sources.clear();
    this.#expected.close();
    this.#crowding.close();
    await Promise.all(sockets.map((socket) => socket && closed(socket)));
  }

  #receive(datagram: Uint8Array, from: Sender): void {
    this.received++;
    const decoded = decode(datagram);
    if (isDrop(decoded)) {
      this.drop(decoded.drop);
      return;
    }
    countOne(this.receivedOf, decoded.message.type);
    for (const receive of this.#receivers) this.#give(receive, decoded.message, from);
  }

  /** What one can't do must not end the agent, nor keep the message from others. */
  #give(receive: Receive, message: Message, from: Sender): void {
    try {
      receive(message, from);
    } catch (error) {
      this.#failed(error);
    }
  }
}

function countOne<Key>(counts: Map<Key, number>, key: Key): void {
  counts.set(key, (counts.get(key) ?? 0) + 1);
}

/** An IPv6 socket has IPv4 addresses so. */
function mapped(address: string): string {
  return address.includes(':') ? address : `::ffff:${address}`;
}

/** @throws what bind(2) says. */
async function bound(port: number, address: string, reusePort: boolean): Promise<Socket> {
  const socket = createSocket({ type: 'udp6', recvBufferSize: RECEIVE_BUFFER_BYTES, reusePort });
  socket.bind(port, address);
  await once(socket, 'listening');
  return socket;
}

async function closed(socket: Socket): Promise<void> {
  socket.close();
  await once(socket, 'close');
}
