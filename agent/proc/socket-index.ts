/** Which flows have a socket. */
import { type Endpoint, type Flow, flowKey } from '../address.ts';
import type { InetSocket } from './sockets.ts';

export type SocketIndex = { has(flow: Flow): boolean };

/**
 * A flow has a socket that is connected so, or (UDP) one that is bound to its local endpoint and serves anybody. An IPv6
 * socket that is bound to any address counts for IPv4 as well: whether it takes IPv4 can't be seen from outside.
 */
export function socketIndex(sockets: readonly InetSocket[]): SocketIndex {
  const connected = new Set<string>();
  const bound = new Set<string>();
  for (const socket of sockets) {
    if (isUnconnected(socket)) bound.add(boundKey(socket.local));
    else connected.add(flowKey(socket));
  }
  return {
    has: (flow) =>
      connected.has(flowKey(flow)) ||
      (flow.protocol === 'udp' &&
        [flow.local.address, '::', ...(flow.local.address.includes(':') ? [] : ['0.0.0.0'])].some((address) =>
          bound.has(boundKey({ address, port: flow.local.port })),
        )),
  };
}

/** A UDP socket with a port, and anybody at the other end. */
export function isUnconnected({ protocol, local, remote }: InetSocket): boolean {
  return protocol === 'udp' && remote.port === 0 && local.port !== 0;
}

function boundKey({ address, port }: Endpoint): string {
  return `${address} ${port}`;
}
