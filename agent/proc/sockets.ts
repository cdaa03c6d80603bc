/** Sockets from /proc/net (net/ipv4/tcp_ipv4.c get_tcp4_sock and kin): kinds, endpoints, states, queues. */
import { addressText, type Endpoint, type Protocol } from '../address.ts';
import { procLink, procText } from './text.ts';

/** include/net/tcp_states.h */
export const TCP_STATES = [
  'none',
  'established',
  'syn-sent',
  'syn-recv',
  'fin-wait-1',
  'fin-wait-2',
  'time-wait',
  'close',
  'close-wait',
  'last-ack',
  'listen',
  'closing',
  'new-syn-recv',
] as const;
export type TcpState = (typeof TCP_STATES)[number];

export type InetSocket = {
  readonly protocol: Protocol;
  readonly family: 4 | 6;
  readonly local: Endpoint;
  readonly remote: Endpoint;
  readonly state: TcpState;
  /** Bytes; of a listening socket the receive queue counts connections that wait to be accepted. */
  readonly sendQueue: number;
  readonly receiveQueue: number;
  /** 0 once no process holds it. */
  readonly inode: number;
};

/** Whole text of /proc/net/{tcp,tcp6,udp,udp6}. */
export function parseInetTable(text: string, protocol: Protocol, family: 4 | 6): InetSocket[] {
  const sockets: InetSocket[] = [];
  // Thousands of lines have few addresses.
  const known = new Map<string, string>();
  const endpoint = (field: string): Endpoint => {
    const hex = field.slice(0, field.indexOf(':'));
    const address = known.get(hex) ?? parseHexEndpoint(field).address;
    known.set(hex, address);
    return { address, port: Number.parseInt(field.slice(hex.length + 1), 16) };
  };
  for (const line of text.split('\n').slice(1)) {
    const fields = line.trim().split(/\s+/);
    const [, local, remote, state, queues, , , , , inode] = fields;
    if (local === undefined || remote === undefined || state === undefined || queues === undefined) continue;
    const [send = '0', receive = '0'] = queues.split(':');
    sockets.push({
      protocol,
      family,
      local: endpoint(local),
      remote: endpoint(remote),
      state: TCP_STATES[Number.parseInt(state, 16)] ?? 'none',
      sendQueue: Number.parseInt(send, 16),
      receiveQueue: Number.parseInt(receive, 16),
      inode: Number(inode ?? 0),
    });
  }
  return sockets;
}

/** The kernel prints addresses as 32-bit words in the machine's byte order (little-endian on every host of ours). */
export function parseHexEndpoint(text: string): Endpoint {
  const [hex = '', port = '0'] = text.split(':');
  const bytes = new Uint8Array(16);
  if (hex.length === 8) bytes.set([0xff, 0xff], 10);
  const words = Buffer.from(hex, 'hex');
  const start = 16 - words.length;
  for (let index = 0; index < words.length; index++) {
    bytes[start + (index & ~3) + 3 - (index & 3)] = words[index] ?? 0;
  }
  return { address: addressText(bytes), port: Number.parseInt(port, 16) };
}

const TABLES = [
  ['tcp', 'tcp', 4],
  ['tcp6', 'tcp', 6],
  ['udp', 'udp', 4],
  ['udp6', 'udp', 6],
] as const;

/** All TCP and UDP sockets of the network namespace that `pid` lives in. */
export function inetSockets(pid: number | 'self'): InetSocket[] {
  return TABLES.flatMap((table) => readTable(pid, table));
}

/** As `inetSockets`, reading each network namespace once: for whoever looks at many processes at one moment. */
export function socketReader(): (pid: number | 'self') => InetSocket[] {
  const known = new Map<string, InetSocket[]>();
  return (pid) => {
    const namespace = procLink(`/proc/${pid}/ns/net`) ?? '';
    const sockets = known.get(namespace) ?? inetSockets(pid);
    known.set(namespace, sockets);
    return sockets;
  };
}

/** UDP only: quick to read, for whoever polls. */
export function udpSockets(pid: number | 'self'): InetSocket[] {
  return TABLES.filter(([, protocol]) => protocol === 'udp').flatMap((table) => readTable(pid, table));
}

function readTable(pid: number | 'self', [file, protocol, family]: (typeof TABLES)[number]): InetSocket[] {
  const text = procText(`/proc/${pid}/net/${file}`);
  return text === undefined ? [] : parseInetTable(text, protocol, family);
}

const OTHER_KINDS = [
  'unix',
  'netlink',
  'packet',
  'raw',
  'raw6',
  'udplite',
  'udplite6',
  'icmp',
  'icmp6',
] as const;
export type OtherKind = (typeof OTHER_KINDS)[number];

/** Inode → kind for the sockets that carry no flows of ours. The inode's column is named in each table's head. */
export function otherSockets(pid: number | 'self'): Map<number, OtherKind> {
  const kinds = new Map<number, OtherKind>();
  for (const kind of OTHER_KINDS) {
    for (const inode of parseInodes(procText(`/proc/${pid}/net/${kind}`) ?? '', kind)) kinds.set(inode, kind);
  }
  return kinds;
}

export function parseInodes(text: string, kind: OtherKind): number[] {
  const [, ...rows] = text.split('\n');
  return rows.flatMap((row) => {
    const fields = row.trim().split(/\s+/);
    const column =
      kind === 'unix'
        ? fields[6]
        : kind === 'netlink' || kind === 'packet'
          ? fields.at(kind === 'netlink' ? 9 : 8)
          : fields[9];
    const inode = Number(column);
    return Number.isInteger(inode) && inode > 0 ? [inode] : [];
  });
}
