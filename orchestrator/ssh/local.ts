/** The agent of this machine, over its Unix socket. */
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { messageOf, OsmosisError } from '../../agent/error.ts';

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
