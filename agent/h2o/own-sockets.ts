/**
 * Sockets on the H2O port for one source each. The kernel gives a datagram to the socket that is connected to its sender,
 * where there is one (net/ipv6/udp.c, compute_score), so what comes from there has a receive buffer of its own: others
 * can't be crowded out by it, nor it by others.
 */
import { createSocket, type Socket } from 'node:dgram';

/** A source that has said nothing for this long, and that nobody has waited for, has its socket no more. */
const IDLE_MS_MAX = 60_000;

type Own = { readonly socket: Socket; readonly idle: NodeJS.Timeout };

export class OwnSockets {
  readonly #max: number;
  readonly #listen: (socket: Socket) => void;
  /** By sender; whoever was meant longest ago first. */
  readonly #sockets = new Map<string, Own>();

  /** `max`: sockets at once. `listen`: says what is to be done with what one receives. */
  constructor(max: number, listen: (socket: Socket) => void) {
    this.#max = max;
    this.#listen = listen;
  }

  get count(): number {
    return this.#sockets.size;
  }

  /** `address` as the kernel writes it for an IPv6 socket; `local`: our own port, of which others must allow a share. */
  open(address: string, port: number, local: number): void {
    const key = `${address} ${port}`;
    const known = this.#sockets.get(key);
    if (known !== undefined) {
      known.idle.refresh();
      this.#sockets.delete(key);
      this.#sockets.set(key, known);
      return;
    }
    const [oldest] = this.#sockets.keys();
    if (this.#sockets.size >= this.#max && oldest !== undefined) this.#close(oldest);
    const socket = createSocket({ type: 'udp6', reusePort: true });
    const idle = setTimeout(() => this.#close(key), IDLE_MS_MAX).unref();
    this.#sockets.set(key, { socket, idle });
    this.#listen(socket);
    // Until it is connected it takes what comes from anyone, which does no harm: it is listened to.
    socket.on('error', () => this.#close(key));
    socket.bind(local, '::', () => {
      if (this.#sockets.get(key)?.socket === socket) socket.connect(port, address);
    });
  }

  close(): void {
    for (const key of [...this.#sockets.keys()]) this.#close(key);
  }

  #close(key: string): void {
    const own = this.#sockets.get(key);
    this.#sockets.delete(key);
    if (own === undefined) return;
    clearTimeout(own.idle);
    own.socket.close();
  }
}
