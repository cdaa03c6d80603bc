/** What becomes of the options of a tree's sockets: restored after CRIU, lost and named, or a reason to refuse. */
import { existsSync } from 'node:fs';
import { execa } from 'execa';
import { endpointText } from '../address.ts';
import type { Check } from '../control/protocol.ts';
import type { RefusedOption, SocketGroup, SocketRecord } from '../datapath/socket-layout.ts';
import { readSockets } from '../datapath/socket-programs.ts';
import { messageOf } from '../error.ts';
import { type Descriptor, socketInode } from './descriptors.ts';

const IPPROTO_TCP = 6;
const SOCK_STREAM = 1;
/** include/net/tcp_states.h: neither connected nor listening. */
const TCP_CLOSE = 7;
/** The devices of every cell: a socket may be bound to these. */
const CELL_DEVICES = new Set(['lo', 'eth0']);
const ANSWER_MS_MAX = 5_000;
/** Of a long list, this many are named. */
const NAMED_MAX = 4;
/** What CRIU restores differently on every connection, whether the process ever set it or not. */
const ALWAYS_SET = new Set(['TCP_WINDOW_CLAMP', 'SO_REUSEPORT']);
/** The kernel's type information, which the programs that read and set options need. */
const BTF = '/sys/kernel/btf/vmlinux';

export type Options = { readonly groups: readonly SocketGroup[]; readonly checks: readonly Check[] };

/** Of all sockets that `descriptors` hold open. */
export async function socketOptions(root: number, descriptors: readonly Descriptor[]): Promise<Options> {
  const holders = new Map<number, Descriptor>();
  for (const descriptor of descriptors) {
    const inode = socketInode(descriptor.link);
    if (inode !== undefined && !holders.has(inode)) holders.set(inode, descriptor);
  }
  if (holders.size === 0) return { groups: [], checks: [] };
  try {
    const found = new Map((await readSockets()).map((record) => [record.inode, record]));
    const records = [...found.values()].filter(({ inode }) => holders.has(inode));
    const bound = records.some(({ device }) => device !== 0);
    const devices = bound ? await devicesOf(root) : new Map<number, string>();
    return { groups: groupsOf(records), checks: optionChecks(records, holders, devices) };
  } catch (error) {
    const lost =
      'congestion control, TCP_USER_TIMEOUT and whatever else CRIU does not save will be as in new sockets';
    const message = `the options of the sockets can't be read on this host (${messageOf(error)}): ${lost}`;
    return { groups: [], checks: [{ name: 'socket options', ok: true, message }] };
  }
}

/** What is to be set at the destination, over what CRIU restores. */
export function groupsOf(records: readonly SocketRecord[]): SocketGroup[] {
  const settable = records.filter((record) => isTcp(record) && record.state !== TCP_CLOSE);
  const groups = Map.groupBy(settable, ({ options }) => JSON.stringify(options));
  return [...groups.values()].flatMap(([first, ...others]) =>
    first === undefined
      ? []
      : [
          {
            options: first.options,
            sockets: [first, ...others].map(({ local, remote }) => ({ local, remote })),
          },
        ],
  );
}

/** `holders` by inode; `devices`: names by ifindex. */
export function optionChecks(
  records: readonly SocketRecord[],
  holders: ReadonlyMap<number, Descriptor>,
  devices: ReadonlyMap<number, string>,
): Check[] {
  const where = (some: readonly SocketRecord[]) => placesOf(some, holders);
  const checks: Check[] = [];
  const lost = records.flatMap((record) => lostOptions(record).map((name) => ({ name, record })));
  for (const [name, those] of Map.groupBy(lost, (one) => one.name)) {
    const its = those.map(({ record }) => record);
    checks.push(note(`${name} is not kept: ${where(its)} will be without; set it anew after the move`));
  }
  const connected = records.filter((record) => isTcp(record) && record.remote.port !== 0);
  if (connected.length > 0) {
    const what = 'congestion window, round-trip estimate and delayed-ACK state (TCP_QUICKACK)';
    checks.push(note(`${what} of ${connected.length} connections start anew`));
  }
  for (const record of records) {
    const place = where([record]);
    for (const option of record.refused) checks.push(bad(refusal(option, place)));
    if (isTcp(record) && record.ulp !== '') checks.push(bad(layered(record.ulp, place)));
    const device = devices.get(record.device) ?? `number ${record.device}`;
    if (record.device !== 0 && !CELL_DEVICES.has(device))
      checks.push(
        bad(
          `${place} is bound to the device ${device} (SO_BINDTODEVICE), which does not exist in a cell; start it without`,
        ),
      );
  }
  return checks;
}

/** What the destination makes of the options that are to be set there. */
export function congestionCheck(groups: readonly SocketGroup[], available: readonly string[]): Check[] {
  if (groups.length > 0 && !existsSync(BTF)) {
    const message = `the destination's kernel has no type information (${BTF}): congestion control, TCP_USER_TIMEOUT and other options that CRIU does not save are lost`;
    return [note(message)];
  }
  const checks: Check[] = [];
  for (const [congestion, some] of Map.groupBy(groups, ({ options }) => options.congestion)) {
    if (congestion === '' || available.includes(congestion)) continue;
    const count = some.reduce((sum, { sockets }) => sum + sockets.length, 0);
    const remedy = `load it there (modprobe tcp_${congestion}), or they go on with the default`;
    checks.push(
      note(`${count} sockets use congestion control ${congestion}, which the destination lacks; ${remedy}`),
    );
  }
  return checks;
}

function lostOptions(record: SocketRecord): string[] {
  if (isTcp(record) && record.state !== TCP_CLOSE) return [...record.lost];
  // No iterator finds it at the destination, so that nothing can be set there.
  const values = Object.keys(record.options.values).filter((name) => !ALWAYS_SET.has(name));
  return [...record.lost, ...values];
}

function refusal(option: RefusedOption, place: string): string {
  return {
    TCP_MD5SIG: `${place} signs its segments (TCP_MD5SIG) with keys that can't be moved; close it first`,
    TCP_REPAIR: `${place} is in repair mode (TCP_REPAIR): another tool is saving it; let that end first`,
    SO_ATTACH_BPF: `${place} has an eBPF filter (SO_ATTACH_BPF), which CRIU can't save; detach it (SO_DETACH_FILTER) first`,
  }[option];
}

function layered(ulp: string, place: string): string {
  if (ulp !== 'tls')
    return `${place} has the protocol ${ulp} on top of TCP (TCP_ULP), which CRIU can't save; close it first`;
  return `${place} uses kernel TLS (kTLS), whose keys CRIU can't save; switch kTLS off (nginx: ssl_conf_command Options -KTLS) and open it anew`;
}

function isTcp({ protocol, type }: SocketRecord): boolean {
  return protocol === IPPROTO_TCP && type === SOCK_STREAM;
}

function placesOf(records: readonly SocketRecord[], holders: ReadonlyMap<number, Descriptor>): string {
  const named = records.slice(0, NAMED_MAX).map(({ inode, local, remote }) => {
    const { pid, fd } = holders.get(inode) ?? { pid: 0, fd: 0 };
    const ends =
      remote.port === 0 ? endpointText(local) : `${endpointText(local)} with ${endpointText(remote)}`;
    return `process ${pid} fd ${fd} (${ends})`;
  });
  const more = records.length - named.length;
  return named.join(', ') + (more > 0 ? ` and ${more} more` : '');
}

async function devicesOf(pid: number): Promise<Map<number, string>> {
  const inside = ['--target', String(pid), '--net', '--'];
  const { stdout } = await execa('nsenter', [...inside, 'ip', '-json', 'link'], { timeout: ANSWER_MS_MAX });
  const links = JSON.parse(stdout) as { ifindex: number; ifname: string }[];
  return new Map(links.map(({ ifindex, ifname }) => [ifindex, ifname]));
}

function note(message: string): Check {
  return { name: 'socket options', ok: true, message };
}

function bad(message: string): Check {
  return { name: 'sockets', ok: false, message };
}
