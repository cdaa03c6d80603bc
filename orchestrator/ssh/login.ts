/** The SSH handshake and login of one ssh2 client over a socket that is open already. */

import type { CipherAlgorithm, Client } from 'ssh2';
import ssh2 from 'ssh2';
import { asOsmosisError, OsmosisError } from '../../agent/error.ts';
import type { SshConfig } from './config.ts';
import type { HostKeyAlgorithm, HostKeyVerifier } from './host-key.ts';
import type { Identities } from './identities.ts';
import { PINGS } from './liveness.ts';
import type { HostSocket } from './socket.ts';

export type Login = {
  readonly config: SshConfig;
  readonly socket: HostSocket;
  readonly hostKey: HostKeyVerifier;
  readonly hostKeyAlgorithms: readonly HostKeyAlgorithm[];
  readonly identities: Identities;
  /** What a person types to reach the host, e.g. `ssh root@alpha`. */
  readonly sshCommand: string;
};

/** From the first byte of the handshake to being logged in; a login may wait for slow name services (PAM, LDAP). */
const LOGIN_TIMEOUT_MS = 30_000;
/** AES-GCM first: OpenSSL does it at gigabytes a second, and images of gigabytes go through it. */
const CIPHERS = [
  'aes128-gcm@openssh.com',
  'aes256-gcm@openssh.com',
  'chacha20-poly1305@openssh.com',
  'aes128-ctr',
  'aes192-ctr',
  'aes256-ctr',
] as const satisfies readonly CipherAlgorithm[];
/** RFC 4250 section 4.2.2: what a server disconnects with when it has seen enough keys. */
const TOO_MANY_KEYS = [2, 14];

type Ssh2Error = Error & { level?: string; code?: number | string };

/** @throws OsmosisError SSH_UNREACHABLE, SSH_HOST_KEY, SSH_AUTH, SSH_CONFIG, or what the signal was aborted with */
export async function logIn(login: Login, signal: AbortSignal): Promise<Client> {
  signal.throwIfAborted();
  const { config, socket, hostKey, identities } = login;
  const client = new ssh2.Client();
  const { promise: ready, resolve, reject } = Promise.withResolvers<void>();
  const onAbort = () => reject(asOsmosisError(signal.reason, 'INTERRUPTED'));
  signal.addEventListener('abort', onAbort, { once: true });
  client.on('error', (error: Ssh2Error) => {
    // A key that the agent fails to sign with; ssh2 goes on to the next one.
    if (error.level !== 'agent') reject(loginError(login, error));
  });
  client.on('close', () => reject(loginError(login, new Error('the connection was closed'))));
  client.on('ready', () => resolve());
  try {
    client.connect({
      ...PINGS,
      sock: socket.stream,
      username: config.user,
      readyTimeout: LOGIN_TIMEOUT_MS,
      hostVerifier: hostKey.verify,
      algorithms: {
        serverHostKey: [...login.hostKeyAlgorithms],
        cipher: CIPHERS.filter((cipher) => config.ciphers.length === 0 || config.ciphers.includes(cipher)),
      },
      authHandler: [...identities.methods],
    });
    await ready;
    return client;
  } finally {
    signal.removeEventListener('abort', onAbort);
  }
}

function loginError(
  { config, socket, hostKey, identities, sshCommand }: Login,
  error: Ssh2Error,
): OsmosisError {
  const refused = hostKey.error();
  if (refused !== undefined) return refused;
  const where = `${config.hostname} port ${config.port}`;
  const isRefusal = TOO_MANY_KEYS.includes(Number(error.code)) || error.level === 'client-authentication';
  if (hostKey.isVerified() && isRefusal) return authError(config, identities, sshCommand, error);
  if (/no matching/i.test(error.message)) {
    return new OsmosisError('SSH_CONFIG', `no common algorithm with ${where}: ${error.message}`, {
      cause: error,
    });
  }
  const complaint = socket.complaint();
  return new OsmosisError(
    'SSH_UNREACHABLE',
    `no SSH session with ${where}: ${complaint === '' ? error.message : complaint}; try: ${sshCommand}`,
    { cause: error },
  );
}

function authError(config: SshConfig, { offered, skipped }: Identities, sshCommand: string, cause: Error) {
  const tried = offered.length === 0 ? 'there was no key to offer' : `it refused ${offered.join(', ')}`;
  const left = skipped.length === 0 ? '' : `; not tried: ${skipped.join(', ')}`;
  return new OsmosisError(
    'SSH_AUTH',
    `${config.hostname} port ${config.port} does not let ${config.user} in: ${tried}${left}. ` +
      `Add a key to ssh-agent or name it with IdentityFile, and try: ${sshCommand}`,
    { cause },
  );
}
