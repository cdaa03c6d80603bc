/** The agent's own identity: made at its first start, kept on disk, root only. */
import {
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { OsmosisError } from '../error.ts';
import { type Identity, identityOf, newIdentitySeed } from '../wire/h2o-identity.ts';
import { IDENTITY_BYTES } from '../wire/h2o-layout.ts';

/** The 32 bytes of the private key (RFC 8032) in base64, one line. */
const FILE = 'identity';

/**
 * @param directory made 0700 where it is missing
 * @throws OsmosisError USAGE where the file is there and can't be read: a new identity would be a stranger to all peers.
 */
export function openIdentity(directory: string): Identity {
  mkdirSync(directory, { recursive: true, mode: 0o700 });
  const path = join(directory, FILE);
  if (!existsSync(path)) writeDurably(path, `${Buffer.from(newIdentitySeed()).toString('base64')}\n`);
  const text = readFileSync(path, 'utf8').trim();
  const seed = new Uint8Array(Buffer.from(text, 'base64'));
  if (seed.length !== IDENTITY_BYTES || Buffer.from(seed).toString('base64') !== text)
    throw new OsmosisError(
      'USAGE',
      `${path} does not hold the identity of this host's agent; restore it, or remove it: the agent makes a new one then, which peers have to learn (docs/trust.md)`,
    );
  return identityOf(seed);
}

/** Whole or not at all, 0600, also when the power fails. */
export function writeDurably(path: string, text: string): void {
  const file = openSync(`${path}.new`, 'w', 0o600);
  try {
    writeFileSync(file, text);
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
  renameSync(`${path}.new`, path);
}
