/** Runs the system's network tools, where wanted in another network namespace, and turns their failures into ours. */
import { ExecaError, execa } from 'execa';
import { OsmosisError } from '../error.ts';

/** All that these tools do is done in milliseconds; one that hangs is stopped. */
const TOOL_MS_MAX = 10_000;
const SYSTEM_PATHS = '/usr/sbin:/sbin';

/** Answers with what the tool printed; OsmosisError DATAPATH where it failed, was missing or was aborted. */
export type Run = (
  file: string,
  argv: readonly string[],
  signal?: AbortSignal,
  input?: string,
) => Promise<string>;

/** The environment for all tools: they are in directories that an ssh session does not always have in its PATH. */
export function toolEnvironment(): { PATH: string } {
  return { PATH: [process.env.PATH, SYSTEM_PATHS].filter(Boolean).join(':') };
}

/** The command itself, or the same one run in a network namespace. */
export function inNamespace(
  netns: string | undefined,
  file: string,
  argv: readonly string[],
): [string, string[]] {
  return netns === undefined ? [file, [...argv]] : ['nsenter', [`--net=${netns}`, '--', file, ...argv]];
}

/** `netns`: path of the network namespace that the tools see; the agent's own without it. */
export function runnerIn(netns: string | undefined): Run {
  return async (file, argv, signal, input) => {
    const [command, args] = inNamespace(netns, file, argv);
    const options = {
      ...{ env: toolEnvironment(), timeout: TOOL_MS_MAX },
      ...(signal === undefined ? {} : { cancelSignal: signal }),
      ...(input === undefined ? {} : { input }),
    };
    try {
      return (await execa(command, args, options)).stdout;
    } catch (cause) {
      throw failureOf([file, ...argv].join(' '), cause);
    }
  };
}

function failureOf(command: string, cause: unknown): OsmosisError {
  if (!(cause instanceof ExecaError))
    return new OsmosisError('DATAPATH', `could not run ${command}`, { cause });
  if (cause.isCanceled) return new OsmosisError('DATAPATH', `aborted while running: ${command}`, { cause });
  if (cause.code === 'ENOENT') {
    const message = `${command}: no such program; install iproute2, bpftool and util-linux on this host`;
    return new OsmosisError('DATAPATH', message, { cause });
  }
  const reason = cause.stderr || cause.shortMessage;
  return new OsmosisError(
    'DATAPATH',
    `${command} failed: ${reason}; the agent needs root with CAP_NET_ADMIN and CAP_BPF`,
    {
      cause,
    },
  );
}
