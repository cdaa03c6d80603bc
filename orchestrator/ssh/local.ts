/** The agent of this machine, over its Unix socket. */
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { messageOf, OsmosisError } from '../../agent/error.ts';
import { runTerminalClient } from '../../agent/terminal/client.ts';
import type { HostTerminal } from './host.ts';

export const AGENT_SOCKET = '/run/osmosis/agent.sock';

/** @throws OsmosisError AGENT_UNREACHABLE */
export async function connectLocalAgent(path: string, signal?: AbortSignal): Promise<Socket> {
  const socket = connect({ path });
  try {
    await once(socket, 'connect', signal === undefined ? {} : { signal });
    return socket;
  } catch (error) {
    socket.destroy();
    signal?.throwIfAborted();
    const code = error instanceof Error && 'code' in error ? String(error.code) : '';
    throw new OsmosisError('AGENT_UNREACHABLE', REASONS[code]?.(path) ?? `${path}: ${messageOf(error)}`, {
      cause: error,
    });
  }
}

const REASONS: Readonly<Record<string, (path: string) => string>> = {
  ENOENT: (path) => `no agent runs here (${path} does not exist); start it with: osmosis agent`,
  ECONNREFUSED: (path) => `no agent runs here (${path} is left over); start it with: osmosis agent`,
  EACCES: (path) => `the agent’s socket ${path} is for root only; run this as root`,
};

/** A terminal of a cell of this machine: its client has this command's own. */
export function openLocalTerminal(run: string, cell: string): HostTerminal {
  const gone = new AbortController();
  return {
    draws: true,
    write: () => {},
    resize: () => {},
    close: () => gone.abort(),
    done: runTerminalClient(run, cell, gone.signal).catch(() => undefined),
  };
}
