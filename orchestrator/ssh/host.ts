/** A connection to a host, however it is reached. */
import { dirname } from 'node:path';
import type { Duplex } from 'node:stream';
import type { Size } from '../../agent/control/terminal-protocol.ts';
import { asOsmosisError } from '../../agent/error.ts';
import type { Executed, Execution } from './execute.ts';
import { AGENT_SOCKET, connectLocalAgent, openLocalTerminal } from './local.ts';
import { type Target, targetName } from './target.ts';

export type TerminalOptions = {
  readonly cell: string;
  readonly size: Size;
  /** Of the terminal that shows it, as in TERM. */
  readonly kind: string;
  /** What is to be shown; not called where `draws`. */
  readonly show: (chunk: Buffer) => void;
};

/** A terminal of a cell, shown in this one. */
export type HostTerminal = {
  /** It reads and draws in this command's terminal by itself; `write` and `resize` do nothing. */
  readonly draws: boolean;
  write(keys: Buffer): void;
  resize(size: Size): void;
  /** Lets go of it at once. */
  close(): void;
  /** Exit status of the client there: 0 where somebody has let go; undefined where the connection was lost. Never fails. */
  readonly done: Promise<number | undefined>;
};

export interface HostConnection {
  /** For messages: `local`, `alpha`, `alpha:2222`. */
  readonly name: string;
  /**
   * A byte stream to the agent there; any number may be open at once. The signal ends the opening, not the stream.
   * The stream fails with an OsmosisError: AGENT_UNREACHABLE, or SSH_UNREACHABLE when the connection is lost.
   */
  openAgent(signal?: AbortSignal): Promise<Duplex>;
  /** Runs a program there to its end. @throws OsmosisError TIMEOUT, INTERRUPTED, SSH_UNREACHABLE */
  execute(argv: readonly string[], execution: Execution): Promise<Executed>;
  /** @throws OsmosisError SSH_UNREACHABLE */
  openTerminal(options: TerminalOptions): Promise<HostTerminal>;
  /** Closes the connection and with it every stream on it. Never fails. */
  close(): Promise<void>;
}

export type ConnectOptions = {
  /** ssh_config(5) file in place of OpenSSH's default ones. */
  readonly configFile?: string | undefined;
  /** Ends the connecting, not the connection. */
  readonly signal?: AbortSignal | undefined;
  /** The agent's Unix socket, for `local`. */
  readonly socketPath?: string | undefined;
};

/**
 * Connects to a host. For `local` nothing happens before openAgent.
 * @throws OsmosisError SSH_CONFIG, SSH_UNREACHABLE, SSH_HOST_KEY, SSH_AUTH, INTERRUPTED
 */
export async function connectHost(target: Target, options: ConnectOptions = {}): Promise<HostConnection> {
  if (target.kind === 'local') return connectLocal(options.socketPath ?? AGENT_SOCKET);
  const signal = options.signal ?? new AbortController().signal;
  try {
    signal.throwIfAborted();
    // With ssh2, which this machine alone needs not.
    const { connectSsh } = await import('./connect.ts');
    return await connectSsh(target, options.configFile, signal);
  } catch (error) {
    throw asOsmosisError(error, signal.aborted ? 'INTERRUPTED' : 'INTERNAL');
  }
}

function connectLocal(socketPath: string): HostConnection {
  const open = new Set<Duplex>();
  return {
    name: targetName({ kind: 'local' }),
    openAgent: async (signal) => {
      const stream = await connectLocalAgent(socketPath, signal).catch((error: unknown) => {
        throw asOsmosisError(error, 'INTERRUPTED');
      });
      open.add(stream);
      stream.once('close', () => open.delete(stream));
      return stream;
    },
    execute: async (argv, execution) =>
      (await import('./execute-locally.ts')).executeLocally(argv, execution),
    openTerminal: async ({ cell }) => openLocalTerminal(dirname(socketPath), cell),
    close: async () => {
      for (const stream of open) stream.destroy();
    },
  };
}
