/** The file of a cell that is about to be suspended, and its secret: both are there afterwards, or neither. */
import { access } from 'node:fs/promises';
import { OsmosisError } from '../../agent/error.ts';
import { type NewSecret, newSecret, type SecretOptions } from './secret.ts';

/** @throws OsmosisError IMAGE_FILE */
export async function refuseTaken(file: string): Promise<void> {
  if (await isThere(file))
    throw new OsmosisError(
      'IMAGE_FILE',
      `${file} is there already; nothing was touched. Name another file.`,
      { phase: 'plan' },
    );
}

/** What was made of a key goes again where `action` fails and no file has come to be. @throws OsmosisError IMAGE_FILE, IMAGE_KEY, USAGE */
export async function withNewSecret<T>(
  file: string,
  options: SecretOptions,
  action: (secret: NewSecret) => Promise<T>,
): Promise<T> {
  await refuseTaken(file);
  const secret = await newSecret(file, options);
  try {
    return await action(secret);
  } catch (error) {
    // The key of a file that may be there stays.
    if (!(error instanceof OsmosisError && error.owner === 'file') && !(await isThere(file)))
      await secret.drop();
    throw error;
  }
}

function isThere(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}
