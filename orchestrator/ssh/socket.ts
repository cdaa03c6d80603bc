/** The byte stream under an SSH connection: a TCP socket, or `ssh -W` through the jump hosts of ProxyJump. */
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { execa } from 'execa';
import { messageOf, OsmosisError } from '../../agent/error.ts';
import type { SshConfig } from './config.ts';

export type HostSocket = {
  readonly stream: Duplex;
  /** What the jump had to say, for the error message; empty for TCP. */
  readonly complaint: () => string;
  /** Closes at once; repeated calls do nothing. */
  readonly destroy: () => void;
};

const COMPLAINT_BYTES_MAX = 4096;

/** @throws OsmosisError SSH_UNREACHABLE, SSH_CONFIG for a ProxyCommand */
export async function openSocket(
  config: SshConfig,
  configFile: string | undefined,
  signal: AbortSignal,
): Promise<HostSocket> {
  if (config.proxyCommand !== undefined) {
    throw new OsmosisError(
      'SSH_CONFIG',
      `ProxyCommand (${config.proxyCommand}) is not supported, it needs a shell; use ProxyJump for this host`,
    );
  }
  return config.proxyJump === undefined
    ? connectTcp(config, signal)
    : connectJump(config, config.proxyJump, configFile);
}

async function connectTcp({ hostname, port, family, connectTimeoutMs }: SshConfig, signal: AbortSignal) {
  const socket: Socket = connect({ host: hostname, port, family, noDelay: true });
  const deadline = AbortSignal.timeout(connectTimeoutMs);
  try {
    await once(socket, 'connect', { signal: AbortSignal.any([signal, deadline]) });
  } catch (error) {
    socket.destroy();
    // Whatever the socket still has to say after this is about the failure that is reported already.
    socket.on('error', () => {});
    signal.throwIfAborted();
    const reason = deadline.aborted ? `no answer within ${connectTimeoutMs / 1000} s` : reasonOf(error);
    throw new OsmosisError(
      'SSH_UNREACHABLE',
      `cannot connect to ${hostname} port ${port}: ${reason}; is the host up, and its sshd?`,
      { cause: error },
    );
  }
  return { stream: socket, complaint: () => '', destroy: () => void socket.destroy() };
}

const REASONS: Readonly<Record<string, string>> = {
  ECONNREFUSED: 'connection refused',
  ENOTFOUND: 'the name does not resolve',
  EAI_AGAIN: 'the name server does not answer',
  EHOSTUNREACH: 'no route to the host',
  ENETUNREACH: 'no route to its network',
  ETIMEDOUT: 'no answer',
};

function reasonOf(error: unknown): string {
  const code = error instanceof Error && 'code' in error ? String(error.code) : '';
  return REASONS[code] ?? (messageOf(error) || code);
}

/** Arguments as OpenSSH itself would jump: through the last host of the list, reached through those before it. */
export function jumpArguments(
  jumps: string,
  { hostname, port }: Pick<SshConfig, 'hostname' | 'port'>,
  configFile: string | undefined,
): string[] {
  const hops = jumps.split(',');
  const last = hops.pop() ?? '';
  const before = hops.join(',');
  const address = hostname.includes(':') ? `[${hostname}]` : hostname;
  return [
    ...(configFile === undefined ? [] : ['-F', configFile]),
    // Nobody is there to answer a question.
    ...['-o', 'BatchMode=yes'],
    ...(before === '' ? [] : ['-J', before]),
    ...['-W', `${address}:${port}`],
    last.startsWith('ssh://') ? last : `ssh://${last}`,
  ];
}

function connectJump(config: SshConfig, jumps: string, configFile: string | undefined): HostSocket {
  const child = execa('ssh', jumpArguments(jumps, config, configFile), { buffer: false, reject: false });
  let said = '';
  child.stderr.on('data', (chunk) => {
    said = (said + chunk).slice(-COMPLAINT_BYTES_MAX);
  });
  return {
    stream: child.duplex(),
    complaint: () => said.trim(),
    destroy: () => void child.kill(),
  };
}
