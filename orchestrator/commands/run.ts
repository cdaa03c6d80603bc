/** `osmosis run` */
import type { Result } from '../../agent/control/protocol.ts';
import { parseLabels } from '../fleet/labels.ts';
import { type HostOptions, printJson, withHosts } from './hosts.ts';

export type RunOptions = HostOptions & {
  readonly name?: string;
  readonly on: string;
  /** KEY=VALUE */
  readonly label?: readonly string[];
  readonly asIs: boolean;
  readonly json?: boolean;
};

export async function runRun(argv: readonly string[], options: RunOptions): Promise<void> {
  const placement = parseLabels(options.label);
  await withHosts(options, async (hosts, signal) => {
    const agent = await hosts.agent(await hosts.connect(options.on));
    const isLocal = options.on === 'local';
    const name = options.name === undefined ? {} : { name: options.name };
    // The environment of the command's machine means nothing on another host.
    const env = isLocal
      ? Object.entries(process.env).flatMap(([key, value]): [string, string][] =>
          value === undefined ? [] : [[key, value]],
        )
      : [];
    const path: [string, string] = ['PATH', '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'];
    const { cell, pid, io_uring, mptcp } = await agent.call(
      'run',
      {
        ...name,
        placement,
        argv: [...argv],
        cwd: isLocal ? process.cwd() : '/',
        env: isLocal ? env : [path],
        as_is: options.asIs,
      },
      { signal },
    );
    if (options.json) printJson({ ok: true, cell, pid, io_uring, mptcp });
    else process.stdout.write(`cell ${cell}, pid ${pid}\n${movableText({ io_uring, mptcp })}`);
  });
}

/** What was done to it, so that nobody wonders: CRIU saves neither an io_uring nor an MPTCP socket. */
export function movableText({ io_uring, mptcp }: Pick<Result<'run'>, 'io_uring' | 'mptcp'>): string {
  if (mptcp === 'as it is') return 'as it is: with an io_uring or MPTCP sockets it could not move\n';
  return io_uring === 'denied'
    ? 'to keep it movable, io_uring is denied to it, and MPTCP is off (Go); --as-is leaves both\n'
    : 'MPTCP is off (Go); io_uring could not be denied to it, which needs setpriv of util-linux 2.41: with one it could not move\n';
}
