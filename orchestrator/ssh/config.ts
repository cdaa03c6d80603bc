/**
 * The effective SSH configuration of a host, asked from OpenSSH itself (`ssh -G`): Include, Match, wildcards and
 * defaults then mean here exactly what they mean to ssh(1). Keywords: ssh_config(5).
 */
import { homedir } from 'node:os';
import { execa } from 'execa';
import { OsmosisError } from '../../agent/error.ts';
import type { SshTarget } from './target.ts';

/** `ask` counts as `yes`: a migration can't stop to ask. */
export type HostKeyPolicy = 'yes' | 'accept-new' | 'no';

export type SshConfig = {
  /** The address to connect to, after HostName. */
  readonly hostname: string;
  readonly port: number;
  readonly user: string;
  /** 0 lets the resolver choose. */
  readonly family: 0 | 4 | 6;
  readonly connectTimeoutMs: number;
  /** Paths with `~` and `%` tokens still in them. */
  readonly identityFiles: readonly string[];
  readonly identitiesOnly: boolean;
  /** Socket path, already without `~` and variables; undefined: no agent. */
  readonly identityAgent: string | undefined;
  /** In order; the first of the user's files is the one that accept-new writes to. */
  readonly userKnownHostsFiles: readonly string[];
  readonly globalKnownHostsFiles: readonly string[];
  readonly hashKnownHosts: boolean;
  readonly hostKeyAlias: string | undefined;
  readonly hostKeyPolicy: HostKeyPolicy;
  /** In OpenSSH's names and order. */
  readonly hostKeyAlgorithms: readonly string[];
  readonly ciphers: readonly string[];
  /** `[user@]host[:port]`, several with commas; undefined: none. */
  readonly proxyJump: string | undefined;
  readonly proxyCommand: string | undefined;
};

const CONNECT_TIMEOUT_MS = 15_000;
const CONFIG_TIMEOUT_MS = 10_000;
const SSH_PORT = 22;

/** Arguments for ssh(1) that name this target; the same ones that a person would type. */
export function destinationArguments(target: SshTarget, configFile: string | undefined): string[] {
  return [
    ...(configFile === undefined ? [] : ['-F', configFile]),
    ...(target.port === undefined ? [] : ['-p', String(target.port)]),
    target.user === undefined ? target.host : `${target.user}@${target.host}`,
  ];
}

/** @throws OsmosisError SSH_CONFIG where there is no ssh(1), or it rejects the configuration */
export async function resolveSshConfig(
  target: SshTarget,
  configFile: string | undefined,
  signal?: AbortSignal,
): Promise<SshConfig> {
  const { failed, stdout, stderr, code, shortMessage } = await execa(
    'ssh',
    ['-G', ...destinationArguments(target, configFile)],
    {
      reject: false,
      stdin: 'ignore',
      timeout: CONFIG_TIMEOUT_MS,
      ...(signal === undefined ? {} : { cancelSignal: signal }),
    },
  );
  signal?.throwIfAborted();
  if (code === 'ENOENT') {
    throw new OsmosisError(
      'SSH_CONFIG',
      'ssh is not installed here; install OpenSSH’s client (openssh-client)',
    );
  }
  if (failed) {
    throw new OsmosisError(
      'SSH_CONFIG',
      `ssh cannot read its configuration: ${stderr.trim() || shortMessage}`,
    );
  }
  return parseSshConfig(stdout, process.env);
}

/** Parses what `ssh -G` prints: `keyword value` lines, keywords in lower case, some of them repeated. */
export function parseSshConfig(text: string, env: NodeJS.ProcessEnv): SshConfig {
  const values = new Map<string, string[]>();
  for (const line of text.split('\n')) {
    const space = line.indexOf(' ');
    if (space <= 0) continue;
    const keyword = line.slice(0, space).toLowerCase();
    values.set(keyword, [...(values.get(keyword) ?? []), line.slice(space + 1).trim()]);
  }
  const one = (keyword: string) => optional(values.get(keyword)?.[0]);
  const list = (keyword: string, separator: RegExp) => one(keyword)?.split(separator).filter(Boolean) ?? [];
  const hostname = one('hostname');
  const user = one('user');
  if (hostname === undefined || user === undefined) {
    throw new OsmosisError(
      'SSH_CONFIG',
      '`ssh -G` named no host and user; is the ssh in PATH really OpenSSH’s?',
    );
  }
  const timeoutS = Number(one('connecttimeout'));
  return {
    hostname,
    user,
    port: Number(one('port') ?? SSH_PORT),
    family: FAMILIES[one('addressfamily') ?? ''] ?? 0,
    connectTimeoutMs: timeoutS > 0 ? timeoutS * 1000 : CONNECT_TIMEOUT_MS,
    identityFiles: (values.get('identityfile') ?? []).filter((file) => file !== 'none'),
    identitiesOnly: isYes(one('identitiesonly')),
    identityAgent: agentSocket(values.get('identityagent')?.[0], env),
    userKnownHostsFiles: list('userknownhostsfile', /\s+/),
    globalKnownHostsFiles: list('globalknownhostsfile', /\s+/),
    hashKnownHosts: isYes(one('hashknownhosts')),
    hostKeyAlias: one('hostkeyalias'),
    hostKeyPolicy: hostKeyPolicy(one('stricthostkeychecking')),
    hostKeyAlgorithms: list('hostkeyalgorithms', /,/),
    ciphers: list('ciphers', /,/),
    proxyJump: one('proxyjump'),
    proxyCommand: one('proxycommand'),
  };
}

const FAMILIES: Readonly<Record<string, 4 | 6>> = { inet: 4, inet6: 6 };

function optional(value: string | undefined): string | undefined {
  return value === undefined || value === '' || value.toLowerCase() === 'none' ? undefined : value;
}

function isYes(value: string | undefined): boolean {
  return value === 'yes' || value === 'true';
}

function hostKeyPolicy(value: string | undefined): HostKeyPolicy {
  if (value === 'accept-new') return 'accept-new';
  return value === 'no' || value === 'off' || value === 'false' ? 'no' : 'yes';
}

/** IdentityAgent: unset or the word SSH_AUTH_SOCK means that variable, `$NAME` another one, `none` no agent. */
function agentSocket(value: string | undefined, env: NodeJS.ProcessEnv): string | undefined {
  if (value === undefined || value === 'SSH_AUTH_SOCK') return env.SSH_AUTH_SOCK || undefined;
  if (value === 'none') return undefined;
  const variable = /^\$\{?(\w+)\}?$/.exec(value)?.[1];
  return variable === undefined ? value : env[variable] || undefined;
}

/**
 * Expands `~` and the tokens of ssh_config(5) that make sense in an IdentityFile; `ssh -G` leaves them as they are.
 * @param host the host as the operator wrote it, for `%n`
 */
export function expandIdentityFile(file: string, config: SshConfig, host: string, localUser: string): string {
  const tokens: Readonly<Record<string, string>> = {
    '%': '%',
    d: homedir(),
    h: config.hostname,
    k: config.hostKeyAlias ?? host,
    n: host,
    p: String(config.port),
    r: config.user,
    u: localUser,
  };
  return file
    .replace(/^~(?=\/|$)/, homedir())
    .replace(/\$\{(\w+)\}/g, (all, name: string) => process.env[name] ?? all)
    .replace(/%(.)/g, (all, token: string) => tokens[token] ?? all);
}
