/**
 * The keys to log in with, in ssh(1)'s order: those of the agent that are named in the configuration, the agent's
 * others (not under IdentitiesOnly), then unencrypted key files.
 */
import { readFile } from 'node:fs/promises';
import { userInfo } from 'node:os';
import type { AnyAuthMethod, BaseAgent, ParsedKey } from 'ssh2';
import ssh2 from 'ssh2';
import { messageOf } from '../../agent/error.ts';
import { expandIdentityFile, type SshConfig } from './config.ts';
import { fingerprint } from './known-hosts.ts';

export type Identities = {
  readonly methods: readonly AnyAuthMethod[];
  /** What is offered to the server, for the error message. */
  readonly offered: readonly string[];
  /** What was left out and why. */
  readonly skipped: readonly string[];
};

type KeyFile = { readonly path: string; readonly key?: ParsedKey; readonly skipped?: string };

const AGENT_TIMEOUT_MS = 5_000;

export async function loadIdentities(config: SshConfig, host: string): Promise<Identities> {
  const localUser = userInfo().username;
  const paths = config.identityFiles.map((file) => expandIdentityFile(file, config, host, localUser));
  const files = (await Promise.all(paths.map(readKeyFiles))).flat();
  const agent = await listAgentKeys(config.identityAgent);
  const isNamed = (key: ParsedKey) =>
    files.some((file) => file.key?.getPublicSSH().equals(key.getPublicSSH()));
  const agentKeys = [
    ...agent.keys.filter(isNamed),
    ...(config.identitiesOnly ? [] : agent.keys.filter((key) => !isNamed(key))),
  ];
  const isInAgent = (key: ParsedKey) =>
    agentKeys.some((other) => other.getPublicSSH().equals(key.getPublicSSH()));
  const privateKeys = files.flatMap(({ path, key }) =>
    key?.isPrivateKey() && !isInAgent(key) ? [{ path, key }] : [],
  );
  const fromAgent: AnyAuthMethod[] =
    agent.agent === undefined || agentKeys.length === 0
      ? []
      : [{ type: 'agent', username: config.user, agent: selectKeys(agent.agent, agentKeys) }];
  return {
    methods: [
      ...fromAgent,
      ...privateKeys.map(({ key }) => ({ type: 'publickey' as const, username: config.user, key })),
    ],
    offered: [
      ...agentKeys.map((key) => `${fingerprint(key.getPublicSSH())} of ssh-agent`),
      ...privateKeys.map(({ path }) => path),
    ],
    skipped: [...agent.skipped, ...files.flatMap(({ skipped }) => skipped ?? [])],
  };
}

/** A private key and its public half; the latter still says which agent key is meant where the former is encrypted. */
async function readKeyFiles(path: string): Promise<KeyFile[]> {
  const own = await readKeyFile(path);
  if (own.key !== undefined) return [own];
  const half = await readKeyFile(`${path}.pub`);
  return half.key === undefined ? [own] : [own, { path: half.path, key: half.key }];
}

async function readKeyFile(path: string): Promise<KeyFile> {
  let text: Buffer;
  try {
    text = await readFile(path);
  } catch (error) {
    // The defaults are mostly absent, and ssh(1) is silent about them too.
    const isAbsent = error instanceof Error && 'code' in error && error.code === 'ENOENT';
    return isAbsent ? { path } : { path, skipped: `${path} (${messageOf(error)})` };
  }
  const parsed = ssh2.utils.parseKey(text);
  if (!(parsed instanceof Error)) return { path, key: parsed };
  const reason = /^Encrypted/.test(parsed.message)
    ? 'encrypted; `ssh-add` it to an agent'
    : 'in a format that is not supported; `ssh-add` it to an agent';
  return { path, skipped: `${path} (${reason})` };
}

type AgentKeys = {
  readonly agent?: BaseAgent;
  readonly keys: readonly ParsedKey[];
  readonly skipped: readonly string[];
};

async function listAgentKeys(socket: string | undefined): Promise<AgentKeys> {
  if (socket === undefined) return { keys: [], skipped: [] };
  // Not ssh2.createAgent: that one guesses what else the path might be.
  const agent = new ssh2.OpenSSHAgent(socket);
  const { promise, resolve } = Promise.withResolvers<AgentKeys>();
  const skip = (why: string) => resolve({ keys: [], skipped: [`ssh-agent at ${socket} (${why})`] });
  const timer = setTimeout(() => skip(`no answer within ${AGENT_TIMEOUT_MS / 1000} s`), AGENT_TIMEOUT_MS);
  agent.getIdentities((error, keys) => {
    if (error) skip(messageOf(error));
    else resolve({ agent, keys: (keys ?? []).filter((key) => 'getPublicSSH' in key), skipped: [] });
  });
  return promise.finally(() => clearTimeout(timer));
}

/** The same agent, showing only `keys`, in this order. */
function selectKeys(agent: BaseAgent, keys: readonly ParsedKey[]): BaseAgent {
  const selected: BaseAgent = Object.create(agent);
  selected.getIdentities = (done) => done(undefined, [...keys]);
  return selected;
}
