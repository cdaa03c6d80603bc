/** Where a host is, as an operator writes it: `ssh://[user@]host[:port]`, or `local` for this machine. */
import { OsmosisError } from '../../agent/error.ts';

export type SshTarget = {
  readonly kind: 'ssh';
  /** A name or address as ssh(1) takes it; an alias of ~/.ssh/config is fine. IPv6 without brackets. */
  readonly host: string;
  readonly user?: string;
  readonly port?: number;
};
export type LocalTarget = { readonly kind: 'local' };
export type Target = SshTarget | LocalTarget;

const PORT_MAX = 65_535;
const SSH_URL = /^ssh:\/\/(?:(?<user>.*)@)?(?<host>\[[^\]]*\]|[^@:/[\]]*)(?::(?<port>\d{1,5}))?\/?$/;
// What OpenSSH refuses in a user or a host (valid_ruser and valid_hostname of its ssh.c): such names end up in argument
// lists and, through a user's own configuration, in shells.
const UNSAFE_USER = /^-|[\s:'"`;&<>|(){}\\\p{Cc}]/u;
const UNSAFE_HOST = /^-|[\s'"`$\\;&<>|(){},\p{Cc}]/u;

/** @throws OsmosisError USAGE where `text` is neither `local` nor an ssh:// URL */
export function parseTarget(text: string): Target {
  if (text === 'local') return { kind: 'local' };
  const match = SSH_URL.exec(text)?.groups;
  if (match === undefined) throw badTarget(text, 'write ssh://[user@]host[:port], or local for this machine');
  const { user, port } = match;
  const host = (match.host ?? '').replace(/^\[|\]$/g, '');
  if (host === '' || UNSAFE_HOST.test(host))
    throw badTarget(text, 'the host is missing or has odd characters');
  if (user?.includes(':')) throw badTarget(text, 'a password has no place in it; use a key or ssh-agent');
  if (user !== undefined && (user === '' || UNSAFE_USER.test(user)))
    throw badTarget(text, 'the user is not valid');
  const number = port === undefined ? undefined : Number(port);
  if (number !== undefined && (number < 1 || number > PORT_MAX))
    throw badTarget(text, `the port is 1 to ${PORT_MAX}`);
  return {
    kind: 'ssh',
    host,
    ...(user === undefined ? {} : { user }),
    ...(number === undefined ? {} : { port: number }),
  };
}

/** The shortest name that tells hosts apart in messages: `local`, `alpha` or `alpha:2222`. */
export function targetName(target: Target): string {
  if (target.kind === 'local') return 'local';
  const host = target.host.includes(':') ? `[${target.host}]` : target.host;
  return target.port === undefined ? host : `${host}:${target.port}`;
}

function badTarget(text: string, remedy: string): OsmosisError {
  return new OsmosisError('USAGE', `not a host: ${JSON.stringify(text)}; ${remedy}`);
}
