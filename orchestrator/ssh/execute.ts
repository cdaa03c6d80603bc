/** A program on a host, run to its end: what doctor and install do where no agent is. */
import type { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import type { Client, ClientChannel } from 'ssh2';
import { asOsmosisError, messageOf, OsmosisError } from '../../agent/error.ts';

/** Of each stream of a program's output; what is beyond it is cut off. */
export const OUTPUT_BYTES_MAX = 1024 * 1024;

export type Execution = {
  readonly signal: AbortSignal;
  /** The program is given up after that. */
  readonly timeoutMs: number;
  /** Its standard input; nothing without. */
  readonly input?: string | (() => Readable);
};
/** `status` is null where a signal ended it. */
export type Executed = { readonly status: number | null; readonly stdout: string; readonly stderr: string };

/** As sh(1) reads it back, word by word: sshd hands a command to the user's shell. */
export function shellQuoted(argv: readonly string[]): string {
  return argv.map((word) => `'${word.replaceAll("'", `'\\''`)}'`).join(' ');
}

/**
 * @param lost the error to give where the connection goes away; undefined while it is there
 * @throws OsmosisError TIMEOUT, INTERRUPTED, SSH_UNREACHABLE
 */
export async function executeOver(
  client: Client,
  host: string,
  argv: readonly string[],
  { signal, timeoutMs, input }: Execution,
  lost: () => OsmosisError | undefined,
): Promise<Executed> {
  signal.throwIfAborted();
  const [program = ''] = argv;
  const { promise, resolve, reject } = Promise.withResolvers<Executed>();
  let channel: ClientChannel | undefined;
  let isOver = false;
  const gone = () => lost() ?? new OsmosisError('SSH_UNREACHABLE', `the SSH connection to ${host} is lost`);
  const onLost = () => reject(gone());
  const onAbort = () => reject(asOsmosisError(signal.reason, 'INTERRUPTED'));
  const timer = setTimeout(() => reject(tooLong(host, program, timeoutMs)), timeoutMs);
  client.once('close', onLost);
  signal.addEventListener('abort', onAbort, { once: true });
  try {
    // Listened to at once: all of a short program's life may be in what has arrived with the channel.
    client.exec(shellQuoted(argv), (error, opened) => {
      if (error) return reject(refused(host, error));
      channel = opened;
      if (isOver) return opened.close();
      ended(opened, gone).then(resolve, reject);
      feed(opened, input);
    });
    return await promise;
  } catch (error) {
    // ssh2 throws on a connection that is gone.
    throw error instanceof OsmosisError ? error : (lost() ?? refused(host, error));
  } finally {
    isOver = true;
    clearTimeout(timer);
    client.off('close', onLost);
    signal.removeEventListener('abort', onAbort);
    channel?.close();
  }
}

function ended(channel: ClientChannel, gone: () => OsmosisError): Promise<Executed> {
  const { promise, resolve, reject } = Promise.withResolvers<Executed>();
  const [stdout, stderr] = [collected(channel), collected(channel.stderr)];
  let status: number | null | undefined;
  channel.on('exit', (code: number | null) => {
    status = code;
  });
  channel.on('close', () => {
    if (status === undefined) reject(gone());
    else resolve({ status, stdout: stdout(), stderr: stderr() });
  });
  channel.on('error', reject);
  return promise;
}

function feed(channel: ClientChannel, input: Execution['input']): void {
  if (typeof input === 'string') channel.end(input);
  else if (input === undefined) channel.end();
  // A program that ends before it has read everything says why by its status.
  else pipeline(input(), channel.stdin).catch(() => undefined);
}

function refused(host: string, cause: unknown): OsmosisError {
  const message = `${host} refused to run a command: ${messageOf(cause)}`;
  return new OsmosisError('SSH_UNREACHABLE', message, { cause });
}

function collected(stream: Readable): () => string {
  const chunks: Buffer[] = [];
  let bytes = 0;
  stream.on('data', (chunk: Buffer) => {
    if (bytes >= OUTPUT_BYTES_MAX) return;
    chunks.push(chunk);
    bytes += chunk.length;
  });
  return () => Buffer.concat(chunks).toString();
}

export function tooLong(host: string, program: string, timeoutMs: number): OsmosisError {
  return new OsmosisError('TIMEOUT', `${program} on ${host} took longer than ${timeoutMs / 1000} s`);
}
