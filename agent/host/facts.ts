/** What a host is: kernel, processor, CRIU, room for images. */

import { statfsSync } from 'node:fs';
import { availableParallelism, hostname, loadavg } from 'node:os';
import { execa } from 'execa';
import type { HostFacts } from '../control/protocol.ts';
import { procText } from '../proc/text.ts';

/** f_type of tmpfs, include/uapi/linux/magic.h */
export const TMPFS_MAGIC = 0x01021994;
const CRIU_ANSWER_MS_MAX = 10_000;

export async function hostFacts(runDirectory: string): Promise<HostFacts> {
  const room = statfsSync(runDirectory);
  return {
    hostname: hostname(),
    machine_id: (procText('/proc/sys/kernel/random/boot_id') ?? '').trim() + hostname(),
    // Read, not asked of uname(2): both say the same, and a file can be looked at by whoever doubts it.
    kernel: (procText('/proc/sys/kernel/osrelease') ?? '').trim(),
    arch: process.arch,
    cpu_flags: cpuFlags(procText('/proc/cpuinfo') ?? ''),
    congestion: (procText('/proc/sys/net/ipv4/tcp_available_congestion_control') ?? '')
      .split(/\s+/)
      .filter(Boolean),
    criu: await criuVersion(),
    load: loadavg()[0] ?? 0,
    cpus: availableParallelism(),
    room_bytes: Math.min(room.bavail * room.bsize, availableMemory(procText('/proc/meminfo') ?? '')),
  };
}

export function cpuFlags(cpuinfo: string): string[] {
  const line = /^(?:flags|Features)\s*:\s*(.*)$/m.exec(cpuinfo)?.[1] ?? '';
  return line.split(' ').filter(Boolean).sort();
}

export function availableMemory(meminfo: string): number {
  const kilobytes = /^MemAvailable:\s+(\d+) kB$/m.exec(meminfo)?.[1];
  return kilobytes === undefined ? Number.MAX_SAFE_INTEGER : Number(kilobytes) * 1024;
}

async function criuVersion(): Promise<string | null> {
  const { stdout, failed } = await execa('criu', ['--version'], {
    reject: false,
    timeout: CRIU_ANSWER_MS_MAX,
  });
  if (failed) return null;
  return /^Version:\s*(\S+)/m.exec(stdout)?.[1] ?? null;
}
