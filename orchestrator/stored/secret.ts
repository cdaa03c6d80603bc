/** What a stored image is sealed with: a key file that is kept apart from it, or a passphrase. Never from argv. */
import { randomBytes } from 'node:crypto';
import { type FileHandle, open, rm } from 'node:fs/promises';
import { messageOf, OsmosisError } from '../../agent/error.ts';
import type { KeySource } from './format.ts';
import { askPassphrase } from './passphrase.ts';
import { KEY_BYTES, SCRYPT, stretch } from './sealing.ts';

/** Group and others may do nothing with it. */
const OTHERS = 0o077;
const SECRET_BYTES_MAX = 4_096;

export type SecretOptions = {
  readonly keyFile?: string;
  readonly passphraseFile?: string;
  /** To be asked for on the terminal. */
  readonly passphrase?: boolean;
};

/** Key material for a file with this salt. */
export type Material = (salt: Uint8Array) => Uint8Array;
export type NewSecret = { readonly source: KeySource; readonly material: Material; drop(): Promise<void> };

/** For a new image at `file`. `drop` takes back what was made. @throws OsmosisError USAGE, IMAGE_KEY, IMAGE_FILE */
export async function newSecret(file: string, options: SecretOptions): Promise<NewSecret> {
  if (usesPassphrase(options)) {
    const passphrase = await passphraseOf(options, true);
    return {
      source: SCRYPT,
      material: (salt) => stretch(passphrase, salt, SCRYPT),
      drop: async () => undefined,
    };
  }
  const path = options.keyFile ?? `${file}.key`;
  const made = new Uint8Array(randomBytes(KEY_BYTES));
  const isNew = await createSecret(path, `${Buffer.from(made).toString('hex')}\n`);
  if (!isNew && options.keyFile === undefined)
    throw new OsmosisError('IMAGE_FILE', `${path} is there already; nothing was touched. Name another file.`);
  const key = isNew ? made : await readKey(path);
  return {
    source: { kind: 'key' },
    material: () => key,
    drop: async () => {
      if (isNew) await rm(path, { force: true });
    },
  };
}

/** For the image at `file`. @throws OsmosisError IMAGE_KEY where it needs another kind of secret, or there is none. */
export async function secretFor(file: string, source: KeySource, options: SecretOptions): Promise<Material> {
  if (source.kind === 'passphrase') {
    if (options.keyFile !== undefined)
      throw refused('the image is sealed with a passphrase; see --passphrase-file');
    const passphrase = await passphraseOf(options, false);
    return (salt) => stretch(passphrase, salt, source);
  }
  if (usesPassphrase(options)) throw refused('the image is sealed with a key file; see --key-file');
  const key = await readKey(options.keyFile ?? `${file}.key`);
  return () => key;
}

export function usesPassphrase({ passphraseFile, passphrase }: SecretOptions): boolean {
  return passphraseFile !== undefined || passphrase === true;
}

async function passphraseOf({ passphraseFile }: SecretOptions, twice: boolean): Promise<string> {
  const text = passphraseFile === undefined ? await askPassphrase(twice) : await readSecret(passphraseFile);
  const passphrase = text.split('\n')[0] ?? '';
  if (passphrase === '') throw refused('the passphrase is empty');
  return passphrase;
}

async function readKey(path: string): Promise<Uint8Array> {
  const text = (await readSecret(path)).trim();
  if (!/^[0-9a-f]{64}$/i.test(text)) throw refused(`${path} is no key: 64 hexadecimal digits`);
  return new Uint8Array(Buffer.from(text, 'hex'));
}

async function readSecret(path: string): Promise<string> {
  let handle: FileHandle | undefined;
  try {
    handle = await open(path, 'r');
    const { mode } = await handle.stat();
    if ((mode & OTHERS) !== 0)
      throw refused(`${path} can be read by others than its owner; chmod 600 it, or make a new one`);
    const buffer = Buffer.alloc(SECRET_BYTES_MAX);
    const { bytesRead } = await handle.read(buffer, 0, buffer.length, null);
    return buffer.toString('utf8', 0, bytesRead);
  } catch (error) {
    if (error instanceof OsmosisError) throw error;
    throw refused(`${path} can't be read (${messageOf(error)}); name the key with --key-file`);
  } finally {
    await handle?.close();
  }
}

/** False where it is there already. */
async function createSecret(path: string, content: string): Promise<boolean> {
  let handle: FileHandle | undefined;
  try {
    handle = await open(path, 'wx', 0o600);
    await handle.writeFile(content);
    await handle.sync();
    return true;
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'EEXIST') return false;
    throw new OsmosisError('IMAGE_FILE', `${path} can't be made (${messageOf(error)}); nothing was touched`, {
      cause: error,
    });
  } finally {
    await handle?.close();
  }
}

function refused(why: string): OsmosisError {
  return new OsmosisError('IMAGE_KEY', `${why}. Nothing was touched.`, { phase: 'plan' });
}
