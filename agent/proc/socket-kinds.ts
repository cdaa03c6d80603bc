/** Kinds of sockets that no move takes along: which process has one, why it can't come, and what to do. */
import type { Check } from '../control/protocol.ts';
import type { Descriptor } from './descriptors.ts';

/** Protocols, as the kernel names them (struct proto), whose sockets CRIU takes also while they are not bound. */
const MOVABLE = new Set(['TCP', 'TCPv6', 'UDP', 'UDPv6', 'UNIX', 'UNIX-STREAM', 'NETLINK']);
/** Tables of /proc/net whose sockets stay out of the way. */
const HARMLESS = new Set(['unix', 'netlink']);

const NO_PORTS = 'its packets have no ports by which they could follow the process; close it first';
const NOT_IN_CRIU = "CRIU can't save it; close it first, or use TCP";

/** By the names of /proc/net's tables and of struct proto, in lower case and without the v6 at their end. */
const REASONS: Readonly<Record<string, readonly [string, string]>> = {
  raw: ['a raw socket', NO_PORTS],
  packet: ['a packet socket (AF_PACKET)', `${NO_PORTS} (a capture such as tcpdump runs beside it instead)`],
  icmp: ['an ICMP socket (ping)', NO_PORTS],
  ping: ['an ICMP socket (ping)', NO_PORTS],
  udplite: ['a UDP-Lite socket', 'its checksum covers what a move changes; close it first, or use UDP'],
  'udp-lite': ['a UDP-Lite socket', 'its checksum covers what a move changes; close it first, or use UDP'],
  mptcp: ['an MPTCP socket', "CRIU can't save it; start it with MPTCP off (Go: GODEBUG=multipathtcp=0)"],
  sctp: ['an SCTP socket', NOT_IN_CRIU],
  dccp: ['a DCCP socket', NOT_IN_CRIU],
  tipc: ['a TIPC socket', NOT_IN_CRIU],
  smc: ['an SMC socket', NOT_IN_CRIU],
  af_vsock: [
    'a VSOCK socket',
    'its other end is the hypervisor or a guest of this very host; close it first',
  ],
  xdp: ['an AF_XDP socket', 'it is bound to queues of a network device of this host; close it first'],
  alg: ['an AF_ALG socket (kernel cryptography)', "CRIU can't save its keys; close it first"],
};

/** undefined for what may move. `kind`: a table of /proc/net, or the name of a protocol in the kernel. */
export function kindCheck(kind: string, { pid, fd }: Descriptor): Check | undefined {
  if (HARMLESS.has(kind) || MOVABLE.has(kind)) return undefined;
  const [what, why] = REASONS[kind.toLowerCase().replace(/v?6$/, '')] ?? [
    `a socket of the kind ${kind}`,
    NOT_IN_CRIU,
  ];
  const name = kind.startsWith('MPTCP') ? 'mptcp' : 'sockets';
  return { name, ok: false, message: `process ${pid} has ${what} open (fd ${fd}): ${why}` };
}
