/** The namespaces of a cell: a holder process outside, catatonit as init inside, and one veth into the host. */
import { spawn } from 'node:child_process';
import { existsSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { execa } from 'execa';
import { insideArgv } from '../criu/argv.ts';
import { messageOf, OsmosisError } from '../error.ts';
import { localMac } from '../host/mac.ts';
import { procLink, procText } from '../proc/text.ts';
import { childrenOf, isAlive, startTicks } from '../proc/tree.ts';

/** A fresh namespace has its init within this, or the host is in trouble. */
const INIT_MS_MAX = 5_000;
const INIT_POLL_MS = 5;
const COMMAND_MS_MAX = 10_000;
/** How long a killed cell may take until its processes are gone. */
const GONE_MS_MAX = 5_000;
/** Packets that come early wait for this neighbour, as osmosis.bpf.c has it: nobody has these addresses, so nobody answers. */
const WAITING = { v4: '169.254.1.2', v6: 'fe80::2' } as const;
/** A host that has no IPv6 for new namespaces (Docker's containers) still has cells with IPv6. */
const IPV6_ON = ['all', 'default'].map((scope) => `net.ipv6.conf.${scope}.disable_ipv6=0`);
/** The next hop that the cell's routes name. It exists in the cell's neighbour table only; the datapath takes over. */
const NEXT_HOP = { v4: '169.254.1.1', v6: 'fe80::1' } as const;

/**
 * What new connections of a process have as source inside a cell that has no address of that family otherwise; it is never
 * seen outside. RFC 7600's dummy address, and one of a range for private use.
 */
export const CELL_SOURCES = { v4: '192.0.0.8', v6: 'fd6f:736d::8' } as const;

/** Those of a cell with `addresses` that its host has routes for (`families`). */
export function cellSources(addresses: readonly string[], families: { v4: boolean; v6: boolean }): string[] {
  const has = {
    v4: addresses.some((each) => !each.includes(':')),
    v6: addresses.some((each) => each.includes(':')),
  };
  return (['v4', 'v6'] as const)
    .filter((family) => families[family] && !has[family])
    .map((family) => CELL_SOURCES[family]);
}

export function isCellSource(address: string): boolean {
  return address === CELL_SOURCES.v4 || address === CELL_SOURCES.v6;
}

export type CellInit = {
  /** unshare(1), outside: its end is the cell's end. */
  readonly holder: number;
  /** catatonit, as a host pid. */
  readonly pid: number;
  readonly ticks: number;
};

/** argv of the holder; `net`: with a network namespace of its own. */
export function holderArgv(net: boolean): string[] {
  return [
    'unshare',
    ...(net ? ['--net'] : []),
    '--pid',
    '--fork',
    '--mount',
    '--mount-proc',
    '--kill-child',
    'catatonit',
    '-P',
  ];
}

/** @throws OsmosisError CELL where the namespaces can't be made; nothing is left of them then. */
export async function createNamespaces(net: boolean): Promise<CellInit> {
  const [file = 'unshare', ...args] = holderArgv(net);
  const child = spawn(file, args, { detached: true, stdio: 'ignore', cwd: '/' });
  const failed = new Promise<never>((_resolve, reject) => {
    child.once('error', reject);
    child.once('exit', (code) => reject(new Error(`unshare ended with ${code}`)));
  });
  failed.catch(() => undefined);
  child.unref();
  try {
    return await Promise.race([initOf(child.pid ?? 0), failed]);
  } catch (cause) {
    child.kill('SIGKILL');
    throw new OsmosisError(
      'CELL',
      `can't make the namespaces of a cell: ${messageOf(cause)}; see osmosis agent's log`,
      { cause },
    );
  }
}

async function initOf(holder: number): Promise<CellInit> {
  for (let waited = 0; waited < INIT_MS_MAX; waited += INIT_POLL_MS) {
    const pid = childrenOf(holder)[0];
    // catatonit runs only after unshare has mounted the new /proc.
    if (pid !== undefined && procLink(`/proc/${pid}/exe`)?.endsWith('/catatonit')) {
      return { holder, pid, ticks: startTicks(pid) ?? 0 };
    }
    await sleep(INIT_POLL_MS);
  }
  throw new Error(`no init after ${INIT_MS_MAX} ms`);
}

export function isInitAlive({ pid, ticks }: CellInit): boolean {
  return isAlive(pid) && startTicks(pid) === ticks;
}

/** Ends every process of the cell, and with them its namespaces. */
export async function destroyNamespaces(init: CellInit): Promise<void> {
  for (const pid of [init.pid, init.holder]) {
    if (pid === init.pid && !isInitAlive(init)) continue;
    if (pid === init.holder && !procText(`/proc/${pid}/cmdline`)?.includes('unshare')) continue;
    try {
      process.kill(pid, 'SIGKILL');
    } catch {
      // Gone in between: what we wanted.
    }
  }
  for (let waited = 0; waited < GONE_MS_MAX && isInitAlive(init); waited += INIT_POLL_MS)
    await sleep(INIT_POLL_MS);
}

/**
 * New processes of the cell's PID namespace (CRIU and its helpers) get pids after `pid`, so that they are never in the way
 * of the pids that a restore needs.
 */
export function setUpKernel(init: CellInit, pid: number): Promise<void> {
  return run(insideArgv({ init: init.pid, net: false }, ['sysctl', '-qw', `kernel.ns_last_pid=${pid}`]));
}

/** Terminals of its own: their numbers are free, whatever the host has. */
export function mountTerminals(init: CellInit): Promise<void> {
  const options = 'newinstance,ptmxmode=0666,mode=0620,gid=5,nosuid,noexec';
  const mount = ['mount', '-t', 'devpts', '-o', options, 'devpts', '/dev/pts'];
  return run(insideArgv({ init: init.pid, net: false }, mount));
}

export type CellLink = {
  /** Host end. */
  readonly name: string;
  readonly ifindex: number;
  /** Of the end inside. */
  readonly mac: string;
};

/** Packets for a cell that is being restored wait for it, up to this much, and this long: longer than it can take. */
const QUEUE_BYTES_MAX = 4 * 1024 * 1024;
const QUEUE_MS_MAX = 120_000;

/**
 * Joins the cell to the host with one veth that carries its virtual addresses. Neither end gets a link-local address of
 * its own: they have nothing to announce to each other.
 */
export async function createLink(
  init: CellInit,
  name: string,
  addresses: readonly string[],
  mtu: number,
): Promise<CellLink> {
  const mac = localMac();
  const peer = ['peer', 'name', 'eth0', 'address', mac, 'netns', String(init.pid)];
  await run(['ip', 'link', 'add', name, 'mtu', String(mtu), 'type', 'veth', ...peer]);
  try {
    setUpQueue(name);
    await run(['ip', 'link', 'set', name, 'addrgenmode', 'none']);
    await run(['ip', 'link', 'set', name, 'up']);
    const host = await linkFacts(name);
    await run(insideArgv({ init: init.pid, net: true }, ['sysctl', '-eqw', ...IPV6_ON]));
    const inside = insideArgv({ init: init.pid, net: true }, ['ip', '-batch', '-']);
    await run(inside, cellNetworkBatch(addresses, host.mac, mtu));
    return { name, ifindex: host.ifindex, mac };
  } catch (error) {
    await destroyLink(name);
    throw error;
  }
}

/** Name of the device that a queue's packets come out of. */
export function farEnd(name: string): string {
  return `${name}q`;
}

/**
 * For a cell that comes home: a veth with both ends in the host's own namespace, for the queue alone. What is released
 * comes out at the far end, where `from_queue` puts it back in at the device that it came by.
 */
export async function createQueue(name: string): Promise<CellLink> {
  const mac = localMac();
  const far = farEnd(name);
  await run(['ip', 'link', 'add', name, 'type', 'veth', 'peer', 'name', far, 'address', mac]);
  try {
    setUpQueue(name);
    // Fragments go up from here. The other end may have an address of this host's own, if it was here when it began.
    for (const [setting, value] of [
      ['rp_filter', '0'],
      ['accept_local', '1'],
    ])
      writeFileSync(`/proc/sys/net/ipv4/conf/${far}/${setting}`, value ?? '');
    await run(['ip', '-batch', '-'], `link set ${name} up\nlink set ${far} up\n`);
    return { name, ifindex: (await linkFacts(name)).ifindex, mac };
  } catch (error) {
    await destroyLink(name);
    throw error;
  }
}

function setUpQueue(name: string): void {
  for (const family of ['ipv4', 'ipv6']) {
    const settings = `/proc/sys/net/${family}/neigh/${name}`;
    if (!existsSync(settings)) continue;
    writeFileSync(`${settings}/unres_qlen_bytes`, String(QUEUE_BYTES_MAX));
    writeFileSync(`${settings}/retrans_time_ms`, String(QUEUE_MS_MAX));
  }
}

/** Delivers what has waited for a cell, in order: started ahead of time, because the cell's peers wait while it starts. */
export class QueueRelease {
  readonly #child = execa('ip', ['-batch', '-'], { reject: false, stdin: 'pipe' });

  constructor() {
    // One that has ended already says so by its status.
    this.#child.stdin.on('error', () => {});
  }

  async run({ name, mac }: CellLink): Promise<void> {
    const lines = Object.values(WAITING).map(
      (address) => `neigh replace ${address} lladdr ${mac} nud permanent dev ${name}\n`,
    );
    const deadline = setTimeout(() => this.#child.kill('SIGKILL'), COMMAND_MS_MAX);
    this.#child.stdin.end(lines.join(''));
    const { failed, stderr } = await this.#child;
    clearTimeout(deadline);
    if (failed) throw new OsmosisError('CELL', `ip -batch: ${stderr.trim() || 'failed'}`);
  }

  /** Where it is not needed. It ends with the agent as well. */
  async cancel(): Promise<void> {
    this.#child.stdin.end();
    await this.#child;
  }
}

/** ip(8) batch lines for the inside of a cell; `mac`: the host end's, which stands for every next hop. */
export function cellNetworkBatch(addresses: readonly string[], mac: string, mtu: number): string {
  const v6 = addresses.some((address) => address.includes(':'));
  return [
    'link set lo up',
    `link set eth0 mtu ${mtu}`,
    'link set eth0 addrgenmode none',
    'link set eth0 up',
    ...addresses.map((address) =>
      address.includes(':') ? `addr add ${address}/128 dev eth0 nodad` : `addr add ${address}/32 dev eth0`,
    ),
    `neigh replace ${NEXT_HOP.v4} lladdr ${mac} nud permanent dev eth0`,
    `route replace default via ${NEXT_HOP.v4} dev eth0 onlink`,
    ...(v6
      ? [
          `neigh replace ${NEXT_HOP.v6} lladdr ${mac} nud permanent dev eth0`,
          `route replace default via ${NEXT_HOP.v6} dev eth0 onlink`,
        ]
      : []),
    '',
  ].join('\n');
}

export async function destroyLink(name: string): Promise<void> {
  await execa('ip', ['link', 'delete', name], { reject: false, timeout: COMMAND_MS_MAX });
}

async function linkFacts(name: string): Promise<{ ifindex: number; mac: string }> {
  const { stdout } = await execa('ip', ['-json', 'link', 'show', 'dev', name], { timeout: COMMAND_MS_MAX });
  const [link] = JSON.parse(stdout) as { ifindex: number; address: string }[];
  if (link === undefined) throw new OsmosisError('CELL', `the new device ${name} is not there`);
  return { ifindex: link.ifindex, mac: link.address };
}

async function run([file = '', ...args]: readonly string[], input?: string): Promise<void> {
  const { failed, stderr } = await execa(file, args, {
    reject: false,
    timeout: COMMAND_MS_MAX,
    ...(input === undefined ? {} : { input }),
  });
  if (failed) throw new OsmosisError('CELL', `${[file, ...args].join(' ')}: ${stderr.trim() || 'failed'}`);
}
