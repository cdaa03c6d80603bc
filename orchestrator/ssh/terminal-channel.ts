/** `osmosis agent terminal CELL` on the far host, in a pseudo-terminal of sshd's. */
import type { Client, ClientChannel } from 'ssh2';
import { OsmosisError } from '../../agent/error.ts';
import type { HostTerminal, TerminalOptions } from './host.ts';

/** Until the client there has made it so itself: keys that come early wait as they are, and are not shown (RFC 4254, section 8). */
const RAW = { ECHO: 0, ICANON: 0, ISIG: 0, ICRNL: 0, IXON: 0, OPOST: 0 } as const;

/** @param lost the error to give where the connection goes away; undefined while it is there */
export function openTerminalChannel(
  client: Client,
  host: string,
  { cell, size, kind, show }: TerminalOptions,
  lost: () => OsmosisError | undefined,
): Promise<HostTerminal> {
  const { promise, resolve, reject } = Promise.withResolvers<HostTerminal>();
  const refused = (error: Error) =>
    lost() ??
    new OsmosisError('SSH_UNREACHABLE', `${host} gives no terminal: ${error.message}`, { cause: error });
  const pty = { term: kind, cols: size.columns, rows: size.rows, width: 0, height: 0, modes: RAW };
  try {
    client.exec(`osmosis agent terminal ${cell}`, { pty }, (error, channel) => {
      if (error) reject(refused(error));
      else resolve(terminalOf(client, channel, show));
    });
  } catch (error) {
    // ssh2 throws on a connection that is gone.
    reject(refused(error instanceof Error ? error : new Error(String(error))));
  }
  return promise;
}

function terminalOf(client: Client, channel: ClientChannel, show: (chunk: Buffer) => void): HostTerminal {
  const { promise: done, resolve } = Promise.withResolvers<number | undefined>();
  let status: number | undefined;
  channel.on('data', show);
  channel.stderr.resume();
  channel.on('exit', (code: number | null) => {
    status = code ?? undefined;
  });
  channel.on('error', () => {});
  const end = () => {
    client.off('close', end);
    resolve(status);
  };
  channel.on('close', end);
  client.on('close', end);
  return {
    draws: false,
    write: (keys) => void channel.write(keys),
    resize: ({ rows, columns }) => channel.setWindow(rows, columns, 0, 0),
    close: () => channel.close(),
    done,
  };
}
