/** What a socket is that stands in none of the kernel's tables: its protocol's name, an extended attribute of it. */
import { execa } from 'execa';
import type { Descriptor } from './descriptors.ts';

const ANSWER_MS_MAX = 5_000;
/** Of more sockets than this, the first ones are looked at. */
const LOOKED_AT_MAX = 1_024;

/** A table of /proc/net or the name of a protocol, and one descriptor of such a socket. */
export type SocketKind = { readonly kind: string; readonly descriptor: Descriptor };

/** Names as the kernel gives them (struct proto): TCP, UDPv6, MPTCP, SCTP; `unknown` where getfattr(1) can't tell. */
export async function socketProtocols(sockets: readonly Descriptor[]): Promise<SocketKind[]> {
  if (sockets.length === 0) return [];
  const some = sockets.slice(0, LOOKED_AT_MAX);
  const paths = some.map(({ pid, fd }) => `/proc/${pid}/fd/${fd}`);
  const { stdout } = await execa(
    'getfattr',
    ['--absolute-names', '--name', 'system.sockprotoname', ...paths],
    {
      reject: false,
      timeout: ANSWER_MS_MAX,
    },
  );
  const names = parseProtocols(stdout ?? '');
  return some.map((descriptor, index) => ({
    kind: (names.length === some.length ? names[index] : undefined) ?? 'unknown',
    descriptor,
  }));
}

function parseProtocols(text: string): string[] {
  return [...text.matchAll(/^system\.sockprotoname="([^"\\]+)/gm)].map((match) => match[1] ?? '');
}
