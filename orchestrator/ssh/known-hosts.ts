/**
 * What the known_hosts files say about a host, looked up by OpenSSH's own `ssh-keygen -F`, which knows hashed names,
 * patterns and markers. File format: sshd(8), SSH_KNOWN_HOSTS FILE FORMAT.
 */
import { createHash, createHmac, randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { appendFile, mkdir } from 'node:fs/promises';
import { dirname } from 'node:path';
import { execa } from 'execa';
import { OsmosisError } from '../../agent/error.ts';
import type { SshConfig } from './config.ts';

export type KnownKey = {
  readonly marker: 'none' | 'revoked' | 'cert-authority';
  /** Public key algorithm, e.g. `ssh-ed25519`. */
  readonly type: string;
  /** Public key blob, RFC 4253 section 6.6. */
  readonly blob: Buffer;
  readonly file: string;
  readonly line: number;
};

/** `named`: recorded under the host's own name (with the port, where that is not 22); `bare`: without the port. */
export type KnownHost = { readonly name: string; readonly named: KnownKey[]; readonly bare: KnownKey[] };

const LOOKUP_TIMEOUT_MS = 10_000;
const SSH_PORT = 22;
const SALT_BYTES = 20;

/** The name that a host has in known_hosts: HostKeyAlias as it is, or the address, bracketed where the port isn't 22. */
export function knownHostsName({ hostname, port, hostKeyAlias }: SshConfig): string {
  if (hostKeyAlias !== undefined) return hostKeyAlias;
  const host = hostname.toLowerCase();
  return port === SSH_PORT ? host : `[${host}]:${port}`;
}

/** @throws OsmosisError SSH_CONFIG where there is no ssh-keygen(1) */
export async function findKnownHost(config: SshConfig): Promise<KnownHost> {
  const files = [...config.userKnownHostsFiles, ...config.globalKnownHostsFiles].filter((file) =>
    existsSync(file),
  );
  const find = async (name: string) => (await Promise.all(files.map((file) => findIn(file, name)))).flat();
  const name = knownHostsName(config);
  const bareName = config.hostname.toLowerCase();
  const isPortNamed = config.hostKeyAlias === undefined && name !== bareName;
  const [named, bare] = await Promise.all([find(name), isPortNamed ? find(bareName) : []]);
  return { name, named, bare };
}

async function findIn(file: string, name: string): Promise<KnownKey[]> {
  const { code, stdout } = await execa('ssh-keygen', ['-F', name, '-f', file], {
    reject: false,
    stdin: 'ignore',
    timeout: LOOKUP_TIMEOUT_MS,
  });
  if (code === 'ENOENT') {
    throw new OsmosisError(
      'SSH_CONFIG',
      'ssh-keygen is not installed here; install OpenSSH’s client (openssh-client)',
    );
  }
  // Any other failure finds nothing, and a host that isn't found is refused: it fails closed.
  return parseFoundKeys(stdout, file);
}

/** Parses `ssh-keygen -F`: a comment `# Host NAME found: line N` before each line that matches. */
export function parseFoundKeys(text: string, file: string): KnownKey[] {
  const keys: KnownKey[] = [];
  let lineNumber = 0;
  for (const line of text.split('\n')) {
    const found = /^# Host .* found: line (\d+)/.exec(line);
    if (found !== null) lineNumber = Number(found[1]);
    if (line.trim() === '' || line.startsWith('#')) continue;
    const fields = line.trim().split(/\s+/);
    const marker = fields[0]?.startsWith('@') ? fields.shift()?.slice(1) : 'none';
    const [, type, base64] = fields;
    if (marker !== 'none' && marker !== 'revoked' && marker !== 'cert-authority') continue;
    if (type === undefined || base64 === undefined) continue;
    keys.push({ marker, type, blob: Buffer.from(base64, 'base64'), file, line: lineNumber });
  }
  return keys;
}

/** What accept-new adds; with HashKnownHosts the name is hidden as `|1|salt|HMAC-SHA1(salt, name)`. */
export function knownHostsLine(name: string, type: string, blob: Uint8Array, isHashed: boolean): string {
  return `${isHashed ? hashedName(name) : name} ${type} ${Buffer.from(blob).toString('base64')}\n`;
}

function hashedName(name: string): string {
  const salt = randomBytes(SALT_BYTES);
  return `|1|${salt.toString('base64')}|${createHmac('sha1', salt).update(name).digest('base64')}`;
}

/** Remembers a new host in the first of the user's files, as StrictHostKeyChecking=accept-new asks for. */
export async function rememberHost(config: SshConfig, type: string, blob: Uint8Array): Promise<void> {
  const file = config.userKnownHostsFiles[0];
  if (file === undefined) return;
  await mkdir(dirname(file), { recursive: true, mode: 0o700 });
  await appendFile(file, knownHostsLine(knownHostsName(config), type, blob, config.hashKnownHosts), {
    mode: 0o600,
  });
}

/** As ssh-keygen(1) prints it: `SHA256:` and unpadded base64. */
export function fingerprint(blob: Uint8Array): string {
  return `SHA256:${createHash('sha256').update(blob).digest('base64').replace(/=+$/, '')}`;
}
