/** One SSH connection to a host, as ssh(1) would make it: configured, verified, authenticated and watched. */
import { once } from 'node:events';
import type { Duplex } from 'node:stream';
import type { Client } from 'ssh2';
import { asOsmosisError, OsmosisError } from '../../agent/error.ts';
import { openAgentChannel } from './agent-channel.ts';
import { destinationArguments, resolveSshConfig } from './config.ts';
import { type Executed, type Execution, executeOver } from './execute.ts';
import type { HostConnection, HostTerminal, TerminalOptions } from './host.ts';
import { createHostKeyVerifier, keyType, offeredAlgorithms } from './host-key.ts';
import { findKnownHost, rememberHost } from './known-hosts.ts';
import { LIVENESS_MS_MAX, watchLiveness } from './liveness.ts';
import { type HostSocket, openSocket } from './socket.ts';
import { type SshTarget, targetName } from './target.ts';
import { openTerminalChannel } from './terminal-channel.ts';

const CLOSE_TIMEOUT_MS = 2_000;

/** @throws OsmosisError SSH_CONFIG, SSH_UNREACHABLE, SSH_HOST_KEY, SSH_AUTH */
export async function connectSsh(
  target: SshTarget,
  configFile: string | undefined,
  signal: AbortSignal,
): Promise<HostConnection> {
  // ssh2 loads while ssh(1) reads its configuration.
  const [config, { loadIdentities }, { logIn }] = await Promise.all([
    resolveSshConfig(target, configFile, signal),
    import('./identities.ts'),
    import('./login.ts'),
  ]);
  const [known, identities] = await Promise.all([findKnownHost(config), loadIdentities(config, target.host)]);
  const sshCommand = ['ssh', ...destinationArguments(target, configFile)].join(' ');
  const hostKey = createHostKeyVerifier(config, known, sshCommand);
  const hostKeyAlgorithms = offeredAlgorithms(known, config.hostKeyAlgorithms);
  const socket = await openSocket(config, configFile, signal);
  try {
    const client = await logIn(
      { config, socket, hostKey, hostKeyAlgorithms, identities, sshCommand },
      signal,
    );
    const newKey = hostKey.newKey();
    if (newKey !== undefined && config.hostKeyPolicy === 'accept-new') {
      await rememberHost(config, keyType(newKey), newKey);
    }
    return new SshConnection(targetName(target), client, socket, hostKey.error);
  } catch (error) {
    socket.destroy();
    throw error;
  }
}

/** Owns the client and its socket until close(). */
class SshConnection implements HostConnection {
  readonly name: string;
  readonly #client: Client;
  readonly #socket: HostSocket;
  #lost: OsmosisError | undefined;

  constructor(name: string, client: Client, socket: HostSocket, refusedKey: () => OsmosisError | undefined) {
    this.name = name;
    this.#client = client;
    this.#socket = socket;
    const stopWatching = watchLiveness(socket.stream, () => {
      this.#lose(`nothing was heard of it for up to ${LIVENESS_MS_MAX / 1000} s`);
      socket.destroy();
    });
    client.on('error', (error) => this.#lose(error.message));
    // First in line: the streams on it ask for the reason when they hear of the close.
    client.prependListener('close', () => {
      stopWatching();
      this.#lost = refusedKey() ?? this.#lost;
      this.#lose('it was closed');
    });
  }

  async openAgent(signal?: AbortSignal): Promise<Duplex> {
    signal?.throwIfAborted();
    const opening = openAgentChannel(this.#client, this.name, () => this.#lost);
    if (signal === undefined) return opening;
    const { promise: aborted, reject } = Promise.withResolvers<never>();
    const onAbort = () => {
      reject(asOsmosisError(signal.reason, 'INTERRUPTED'));
      opening.then(
        (stream) => stream.destroy(),
        () => {},
      );
    };
    signal.addEventListener('abort', onAbort, { once: true });
    return Promise.race([opening, aborted]).finally(() => signal.removeEventListener('abort', onAbort));
  }

  execute(argv: readonly string[], execution: Execution): Promise<Executed> {
    return executeOver(this.#client, this.name, argv, execution, () => this.#lost);
  }

  async openTerminal(options: TerminalOptions): Promise<HostTerminal> {
    return openTerminalChannel(this.#client, this.name, options, () => this.#lost);
  }

  async close(): Promise<void> {
    if (this.#lost !== undefined) return;
    const closed = once(this.#client, 'close', { signal: AbortSignal.timeout(CLOSE_TIMEOUT_MS) });
    this.#client.end();
    // Where the far side doesn't answer in time, the socket goes all the same.
    await closed.catch(() => {});
    this.#socket.destroy();
  }

  #lose(reason: string): void {
    this.#lost ??= new OsmosisError(
      'SSH_UNREACHABLE',
      `the SSH connection to ${this.name} is lost: ${reason}. The agents finish or undo the move by themselves; ` +
        'see how it ended with: osmosis ps',
    );
  }
}
