/** `osmosis run` */
import type { Params, Result } from '../../agent/control/protocol.ts';
import { escapeSchema } from '../../agent/control/terminal-protocol.ts';
import { OsmosisError } from '../../agent/error.ts';
import { parseLabels } from '../fleet/labels.ts';
import { attachStarted, requireTerminal, terminalSize } from './attach.ts';
import { type HostOptions, printJson, withHosts } from './hosts.ts';

/** locale(7) */
const LANGUAGE = /^(LANG|LANGUAGE|LC_[A-Z]+)$/;

export type RunOptions = HostOptions & {
  readonly name?: string;
  readonly on: string;
  /** KEY=VALUE */
  readonly label?: readonly string[];
  readonly asIs: boolean;
  /** In a terminal that moves. */
  readonly terminal: boolean;
  /** Not attached to it. */
  readonly detach: boolean;
  readonly escape: string;
  readonly json?: boolean;
};

export async function runRun(argv: readonly string[], options: RunOptions): Promise<void> {
  const placement = parseLabels(options.label);
  const terminal = terminalOf(options);
  await withHosts(options, async (hosts, signal) => {
    const agent = await hosts.agent(await hosts.connect(options.on));
    const isLocal = options.on === 'local';
    const name = options.name === undefined ? {} : { name: options.name };
    const env = Object.entries(process.env).flatMap(([key, value]): [string, string][] =>
      value === undefined ? [] : [[key, value]],
    );
    const path: [string, string] = ['PATH', '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'];
    const { cell, id, pid, io_uring, mptcp } = await agent.call(
      'run',
      {
        ...name,
        placement,
        argv: [...argv],
        cwd: isLocal ? process.cwd() : '/',
        // The environment of the command's machine means nothing on another host, but for its language at a terminal.
        env: isLocal
          ? env
          : [path, ...(terminal === undefined ? [] : env.filter(([key]) => LANGUAGE.test(key)))],
        as_is: options.asIs,
        ...(terminal && { terminal }),
      },
      { signal },
    );
    if (terminal !== undefined && !options.detach) {
      await attachStarted(hosts, options.on, id ?? cell, options, signal);
      return;
    }
    if (options.json) printJson({ ok: true, cell, pid, io_uring, mptcp });
    else process.stdout.write(`cell ${cell}, pid ${pid}\n${movableText({ io_uring, mptcp })}`);
  });
}

/** @throws OsmosisError USAGE */
function terminalOf({ terminal, detach, escape: key }: RunOptions): Params<'run'>['terminal'] {
  if (!terminal) {
    if (!detach) return undefined;
    throw new OsmosisError('USAGE', '--detach is for -t: without a terminal a program is detached anyway');
  }
  const parsed = escapeSchema.safeParse(key);
  if (!parsed.success)
    throw new OsmosisError(
      'USAGE',
      `--escape ${key} is no key: write C- and a letter or one of \\ ] ^ _, or none`,
    );
  if (!detach) requireTerminal('osmosis run -t');
  return { escape: parsed.data, size: terminalSize() };
}

/** What was done to it, so that nobody wonders: CRIU saves neither an io_uring nor an MPTCP socket. */
function movableText({ io_uring, mptcp }: Pick<Result<'run'>, 'io_uring' | 'mptcp'>): string {
  if (mptcp === 'as it is') return 'as it is: with an io_uring or MPTCP sockets it could not move\n';
  return io_uring === 'denied'
    ? 'to keep it movable, io_uring is denied to it, and MPTCP is off (Go); --as-is leaves both\n'
    : 'MPTCP is off (Go); io_uring could not be denied to it, which needs setpriv of util-linux 2.41: with one it could not move\n';
}
