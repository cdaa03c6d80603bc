/** Names that a command line may want: hosts and cells. Quick or not at all, and never an error: a shell waits for it. */
import { readFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { loadFleet } from '../fleet/fleet.ts';
import { AGENT_SOCKET, connectLocalAgent } from '../ssh/local.ts';
import type { Candidate } from './candidates.ts';

/** Hosts of an ssh_config that are offered. */
const SSH_HOSTS_MAX = 200;
/** The agent of this machine is asked for so long. */
const AGENT_MS_MAX = 700;

/** Those of the fleet file; without one those that ssh_config names. */
export async function hostCandidates(options: { fleet?: string; sshConfig?: string }): Promise<Candidate[]> {
  const local = { value: 'local', description: 'this machine' };
  const fleet = await loadFleet(options.fleet).catch(() => undefined);
  if (fleet !== undefined && fleet.hosts.length > 0)
    return [
      ...fleet.hosts.map(({ name, labels }) => ({
        value: name,
        description:
          Object.entries(labels)
            .map((pair) => pair.join('='))
            .join(' ') || 'of the fleet file',
      })),
      local,
    ];
  const file = options.sshConfig ?? join(homedir(), '.ssh/config');
  const names = sshHosts(await readFile(file, 'utf8').catch(() => ''));
  return [...names.map((name) => ({ value: `ssh://${name}`, description: 'of ssh_config' })), local];
}

/** Names behind `Host` that are no patterns. */
export function sshHosts(text: string): string[] {
  const lines = [...text.matchAll(/^\s*host\s+(.+)$/gim)].flatMap(([, names = '']) =>
    names.trim().split(/\s+/),
  );
  return [...new Set(lines.filter((name) => /^[\w.-]+$/.test(name)))].slice(0, SSH_HOSTS_MAX);
}

/** Those of this machine's agent: another host would have to be asked over SSH, which takes too long for a key press. */
export async function cellCandidates(): Promise<Candidate[]> {
  const signal = AbortSignal.timeout(AGENT_MS_MAX);
  try {
    const socket = await connectLocalAgent(AGENT_SOCKET, signal);
    const { AgentClient } = await import('../agent-client.ts');
    try {
      const { cells } = await new AgentClient('local', socket).call('status', {}, { signal });
      return cells.map(({ name, command }) => ({ value: name, description: command }));
    } finally {
      socket.destroy();
    }
  } catch {
    return [];
  }
}
