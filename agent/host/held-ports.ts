/**
 * Ports of this host that stand for a cell's: a socket of the agent's own is bound to each, so that nobody else binds it,
 * is given it for an outgoing connection, or wonders who has it (`ss -lnp` says). Reserving them (ip_local_reserved_ports)
 * would keep only the second from happening. The datapath takes what comes before these sockets see it.
 */
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { createServer } from 'node:net';
import { type Endpoint, endpointKey, type Protocol } from '../address.ts';
import { messageOf, OsmosisError } from '../error.ts';

type Port = { readonly protocol: Protocol; readonly wire: Endpoint };
type Holder = { close(done: () => void): unknown };

export class HeldPorts {
  readonly #holders = new Map<string, Holder>();

  /** No harm where it is held already. @throws OsmosisError PREFLIGHT where somebody else has it. */
  async hold(port: Port): Promise<void> {
    const { protocol, wire } = port;
    const key = endpointKey(protocol, wire);
    if (this.#holders.has(key)) return;
    try {
      this.#holders.set(key, await (protocol === 'tcp' ? listenOn(wire) : bindTo(wire)));
    } catch (cause) {
      throw new OsmosisError(
        'PREFLIGHT',
        `${key} can't be had on this host: ${messageOf(cause)}; publish at another port`,
        { phase: 'prepare', cause },
      );
    }
  }

  async free(port: Port): Promise<void> {
    const key = endpointKey(port.protocol, port.wire);
    const holder = this.#holders.get(key);
    this.#holders.delete(key);
    if (holder !== undefined) await new Promise<void>((resolve) => void holder.close(resolve));
  }
}

async function listenOn({ address, port }: Endpoint): Promise<Holder> {
  // Whoever gets here has come by a device that the datapath is not on.
  const server = createServer((socket) => socket.resetAndDestroy());
  server.listen({ host: address, port, ipv6Only: true, exclusive: true });
  await once(server, 'listening');
  server.unref();
  return server;
}

async function bindTo({ address, port }: Endpoint): Promise<Holder> {
  const socket = createSocket({
    type: address.includes(':') ? 'udp6' : 'udp4',
    ipv6Only: address.includes(':'),
  });
  socket.bind({ address, port, exclusive: true });
  await once(socket, 'listening');
  socket.unref();
  return socket;
}
