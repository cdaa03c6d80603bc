/** Everything of ours that a host could be left with: compared before and after, on every host. */
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect } from 'vitest';
import { execOn, type LabHost } from '../fixtures/lab/hosts.ts';

export const AGENT_HOSTS = ['alpha', 'beta', 'gamma', 'peer'] as const satisfies LabHost[];
/** Sweeps of the agents forget ended flows after seconds; a source that was left alone keeps its fence and its decision for 20, what nobody acknowledges is said for 60. */
const CLEAN_MS_MAX = 75_000;
/** A look costs some thirty programs on each host. */
const POLL_MS = 1_000;

/** One line a thing; the agent itself, which was there before, is left out, and so are the namespaces of the host itself. */
const LOOK = `
own=$(readlink /proc/1/ns/net /proc/1/ns/pid /proc/1/ns/mnt)
ls -l /proc/[0-9]*/ns/net /proc/[0-9]*/ns/pid /proc/[0-9]*/ns/mnt 2>/dev/null | sed 's/.*-> //' | sort -u | grep -vxF "$own" | sed 's/^/namespace /'
ps -eo args= | grep -E '^(criu|unshare|catatonit -P|nsenter|bpftool)|hook.sh' | grep -v grep | sed 's/^/process /'
ip -o link | sed 's/^[0-9]*: \\([^:@]*\\).*/link \\1/'
for d in $(ls /sys/class/net); do tc qdisc show dev $d | grep -v noqueue; tc filter show dev $d ingress; tc filter show dev $d egress; done 2>/dev/null | sed 's/ id [0-9]* / /; s/^/tc /'
mount | grep osmosis | sed 's/^/mount /'
find /run/osmosis /var/lib/osmosis ! -type d ! -name agent.sock 2>/dev/null | sed 's/^/file /'
find /run/osmosis/images -mindepth 1 -type d 2>/dev/null | sed 's/^/directory /'
sed 's/^/reserved /' /proc/sys/net/ipv4/ip_local_reserved_ports | grep -v 'reserved $'
nft list ruleset 2>/dev/null | sed 's/^/nft /'
true
`;

export async function tracesOn(host: LabHost): Promise<string[]> {
  const { stdout } = await execOn(host, ['sh', '-c', LOOK]);
  return stdout.split('\n').filter(Boolean).sort();
}

export type Traces = ReadonlyMap<LabHost, readonly string[]>;

export async function traces(hosts: readonly LabHost[] = AGENT_HOSTS): Promise<Traces> {
  return new Map(await Promise.all(hosts.map(async (host) => [host, await tracesOn(host)] as const)));
}

/** What each host has now and had not in `before`, waiting until the agents' sweeps have had their time. */
export async function leftSince(before: Traces): Promise<Record<string, string[]>> {
  let left: Record<string, string[]> = {};
  const deadline = Date.now() + CLEAN_MS_MAX;
  while (Date.now() < deadline) {
    const now = await traces([...before.keys()]);
    left = Object.fromEntries(
      [...before].flatMap(([host, had]) => {
        const news = now.get(host)?.filter((line) => !had.includes(line)) ?? [];
        return news.length === 0 ? [] : [[host, news]];
      }),
    );
    if (Object.keys(left).length === 0) return left;
    await sleep(POLL_MS);
  }
  return left;
}

/** For a file, or a group of its tests: once they are over, no host has anything of ours that it had not before. */
export function leavesNothing(): void {
  let before: Traces;
  beforeAll(async () => {
    before = await traces();
  });
  afterAll(async () => {
    expect(await leftSince(before)).toEqual({});
  });
}
