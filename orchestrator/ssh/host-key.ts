/** Whether a server is who it should be: the decision, as a pure function, and the words for an operator. */
import { OsmosisError } from '../../agent/error.ts';
import type { HostKeyPolicy, SshConfig } from './config.ts';
import { fingerprint, type KnownHost } from './known-hosts.ts';

/** `changed`: keys are on record and this is none of them, of whatever type; an impostor picks the type as well. */
export type Verdict = 'known' | 'unknown' | 'changed' | 'revoked';

/** RSA keys are one type in known_hosts and several signature algorithms on the wire (RFC 8332); SHA-1 is left out. */
const RSA_ALGORITHMS = ['rsa-sha2-512', 'rsa-sha2-256'] as const;
/** What ssh2 can verify, strongest and smallest first. */
const ALGORITHMS = [
  'ssh-ed25519',
  'ecdsa-sha2-nistp256',
  'ecdsa-sha2-nistp384',
  'ecdsa-sha2-nistp521',
  ...RSA_ALGORITHMS,
] as const;
export type HostKeyAlgorithm = (typeof ALGORITHMS)[number];

export function judgeHostKey(blob: Buffer, { named, bare }: KnownHost): Verdict {
  const same = [...named, ...bare].filter((known) => known.blob.equals(blob));
  if (same.some(({ marker }) => marker === 'revoked')) return 'revoked';
  if (same.some(({ marker }) => marker === 'none')) return 'known';
  // Keys without the port may belong to another server of the host: they can vouch for this one, not accuse it.
  return named.some(({ marker }) => marker === 'none') ? 'changed' : 'unknown';
}

/** An unknown key passes under `accept-new` and `no`; a changed or revoked one never does. */
export function isAccepted(verdict: Verdict, policy: HostKeyPolicy): boolean {
  return verdict === 'known' || (verdict === 'unknown' && policy !== 'yes');
}

/** Algorithms to offer: those of the keys on record first, so that the server presents one that can be checked. */
export function offeredAlgorithms(
  { named, bare }: KnownHost,
  allowed: readonly string[],
): HostKeyAlgorithm[] {
  const keys = [...named, ...bare].filter(({ marker }) => marker === 'none');
  const types = new Set(keys.map(({ type }) => type));
  const isKnown = (algorithm: string) => types.has(algorithm.startsWith('rsa-') ? 'ssh-rsa' : algorithm);
  const usable = ALGORITHMS.filter((algorithm) => allowed.length === 0 || allowed.includes(algorithm));
  return [...usable.filter(isKnown), ...usable.filter((algorithm) => !isKnown(algorithm))];
}

/** The algorithm name that a public key blob begins with. */
export function keyType(blob: Buffer): string {
  if (blob.length < 4) return 'unknown';
  return blob.subarray(4, 4 + blob.readUInt32BE(0)).toString('latin1');
}

export type HostKeyVerifier = {
  /** For ssh2, at every key exchange of the connection. */
  readonly verify: (blob: Buffer) => boolean;
  /** Why the last key was refused. */
  readonly error: () => OsmosisError | undefined;
  /** The key that was accepted though it is on no record yet. */
  readonly newKey: () => Buffer | undefined;
  readonly isVerified: () => boolean;
};

/** @param sshCommand what a person types to reach the host, e.g. `ssh root@alpha` */
export function createHostKeyVerifier(
  config: SshConfig,
  known: KnownHost,
  sshCommand: string,
): HostKeyVerifier {
  let accepted: Buffer | undefined;
  let error: OsmosisError | undefined;
  const verify = (blob: Buffer): boolean => {
    const verdict = judgeHostKey(blob, known);
    // Later key exchanges have to show the key that the first one was accepted with.
    const isSwapped = accepted !== undefined && !accepted.equals(blob);
    if (!isSwapped && isAccepted(verdict, config.hostKeyPolicy)) {
      accepted = blob;
      return true;
    }
    error = hostKeyError(
      isSwapped || verdict === 'known' ? 'changed' : verdict,
      blob,
      known,
      config,
      sshCommand,
    );
    return false;
  };
  const isNew = () => accepted !== undefined && judgeHostKey(accepted, known) === 'unknown';
  return {
    verify,
    error: () => error,
    newKey: () => (isNew() ? accepted : undefined),
    isVerified: () => accepted !== undefined,
  };
}

/** @param sshCommand what a person types to reach the host, e.g. `ssh root@alpha` */
function hostKeyError(
  verdict: Exclude<Verdict, 'known'>,
  blob: Buffer,
  known: KnownHost,
  config: SshConfig,
  sshCommand: string,
): OsmosisError {
  const presented = `${keyType(blob)} ${fingerprint(blob)}`;
  if (verdict === 'unknown') {
    const authorities = known.named.some(({ marker }) => marker === 'cert-authority')
      ? ' (Its @cert-authority can’t be used: host certificates are not supported.)'
      : '';
    const file = config.userKnownHostsFiles[0] ?? '~/.ssh/known_hosts';
    const scan =
      config.hostKeyAlias === undefined && config.proxyJump === undefined
        ? `, or \`ssh-keyscan -p ${config.port} ${config.hostname} >> ${file}\``
        : '';
    return new OsmosisError(
      'SSH_HOST_KEY',
      `the host key of ${known.name} is not known: ${presented}.${authorities} ` +
        `Compare the fingerprint with the host’s, then add it: \`${sshCommand}\` once${scan}`,
    );
  }
  const records = (verdict === 'revoked' ? [...known.named, ...known.bare] : known.named)
    .filter((key) => (verdict === 'revoked' ? key.blob.equals(blob) : key.marker === 'none'))
    .map(({ type, blob: recorded, file, line }) => `${type} ${fingerprint(recorded)} (${file}:${line})`);
  const what =
    verdict === 'revoked'
      ? `HOST KEY OF ${known.name} IS REVOKED`
      : `HOST KEY OF ${known.name} HAS CHANGED: somebody may be in the middle, or the host was set up anew`;
  return new OsmosisError(
    'SSH_HOST_KEY',
    `${what}. It shows ${presented}; on record: ${records.join(', ') || 'what it showed first'}. Nothing was sent. ` +
      `If the host really is new, remove the old key: \`ssh-keygen -R '${known.name}'\``,
  );
}
