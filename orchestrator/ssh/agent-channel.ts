/** `osmosis agent stdio` on the far host as a byte stream to the agent there. */
import { Duplex } from 'node:stream';
import type { Client, ClientChannel } from 'ssh2';
import { OsmosisError } from '../../agent/error.ts';

const COMMAND = 'osmosis agent stdio';
const STDERR_BYTES_MAX = 4096;
/** Shells say so: found but not executable, not found. POSIX 2.8.2. */
const NOT_EXECUTABLE = 126;
const NOT_FOUND = 127;

/**
 * A channel of ssh2 ends cleanly however it ends: when the command fails, and even when the connection is lost. Here
 * only exit status 0 is an end of stream; everything else destroys it with an error that says what went wrong.
 */
class AgentChannel extends Duplex {
  readonly #channel: ClientChannel;
  readonly #lost: () => OsmosisError | undefined;
  readonly #host: string;
  #stderr = '';
  #exit: { status: number | null; signal?: string } | undefined;

  constructor(channel: ClientChannel, host: string, lost: () => OsmosisError | undefined) {
    // Nothing can be written once the command has exited, so an end of the one side is an end of both.
    super({ allowHalfOpen: false });
    this.#channel = channel;
    this.#host = host;
    this.#lost = lost;
    channel.on('data', (chunk: Buffer) => {
      if (!this.push(chunk)) channel.pause();
    });
    channel.stderr.on('data', (chunk: Buffer) => {
      this.#stderr = (this.#stderr + chunk).slice(-STDERR_BYTES_MAX);
    });
    channel.on('exit', (status: number | null, signal?: string) => {
      this.#exit = { status, ...(signal === undefined ? {} : { signal }) };
    });
    channel.on('error', (error: Error) => this.destroy(error));
    channel.on('close', () => this.#onClose());
  }

  override _read(): void {
    this.#channel.resume();
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    // ssh2 calls back once the chunk fits the far side's window; on a channel that closes meanwhile it never does, and
    // 'close' then destroys this stream, which ends the wait.
    this.#channel.write(chunk, () => done());
  }

  override _final(done: (error?: Error | null) => void): void {
    this.#channel.end(() => done());
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    this.#channel.close();
    done(error);
  }

  /** ssh2 emits 'close' once everything it received has been read. */
  #onClose(): void {
    if (this.destroyed) return;
    if (this.#exit?.status === 0) this.push(null);
    else
      this.destroy(
        this.#exit === undefined
          ? (this.#lost() ?? this.#failure({ status: null }))
          : this.#failure(this.#exit),
      );
  }

  #failure({ status, signal }: { status: number | null; signal?: string }): OsmosisError {
    const said = this.#stderr.trim();
    if (status === NOT_FOUND || status === NOT_EXECUTABLE) {
      return new OsmosisError(
        'AGENT_UNREACHABLE',
        `osmosis is not in PATH on ${this.#host}${said === '' ? '' : ` (${said})`}; install it there`,
      );
    }
    const how = status === null ? `was killed by ${signal ?? 'a signal'}` : `failed with status ${status}`;
    return new OsmosisError(
      'AGENT_UNREACHABLE',
      `no agent on ${this.#host}: \`${COMMAND}\` ${how}${said === '' ? '' : `: ${said}`}`,
    );
  }
}

/**
 * Resolves once the far sshd has accepted the command; whether an agent answers shows on the stream, as data or as an
 * error (AGENT_UNREACHABLE; SSH_UNREACHABLE where the connection is lost).
 * @param lost the error to give where the connection goes away; undefined while it is there
 */
export function openAgentChannel(
  client: Client,
  host: string,
  lost: () => OsmosisError | undefined,
): Promise<Duplex> {
  const { promise, resolve, reject } = Promise.withResolvers<Duplex>();
  const refused = (error: Error) =>
    lost() ??
    new OsmosisError('AGENT_UNREACHABLE', `${host} refused to run \`${COMMAND}\`: ${error.message}`, {
      cause: error,
    });
  try {
    client.exec(COMMAND, (error, channel) => {
      if (error) return reject(refused(error));
      const stream = new AgentChannel(channel, host, lost);
      // It may fail (no osmosis there) before whoever asked for it has had a turn to listen: `errored` says so then.
      stream.on('error', () => undefined);
      // Not only by the channel's 'close': that one waits for a reader that may not come.
      const onLost = () => stream.destroy(lost());
      client.once('close', onLost);
      stream.once('close', () => client.off('close', onLost));
      resolve(stream);
    });
  } catch (error) {
    // ssh2 throws on a connection that is gone.
    reject(refused(error instanceof Error ? error : new Error(String(error))));
  }
  return promise;
}
