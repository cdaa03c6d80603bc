/** Asks for a passphrase on the terminal, unseen. */
import { createInterface } from 'node:readline/promises';
import { Writable } from 'node:stream';
import { OsmosisError } from '../../agent/error.ts';

/** @param twice for a new one. @throws OsmosisError IMAGE_KEY where there is no terminal, or the two differ. */
export async function askPassphrase(twice: boolean): Promise<string> {
  if (!process.stdin.isTTY)
    throw refused('there is no terminal to ask for the passphrase on; name it with --passphrase-file');
  const first = await ask('Passphrase of the image: ');
  if (twice && (await ask('Once more: ')) !== first) throw refused('the two passphrases differ');
  return first;
}

async function ask(question: string): Promise<string> {
  // What is typed is echoed here, and goes nowhere.
  const nowhere = new Writable({ write: (_chunk, _encoding, done) => done() });
  const lines = createInterface({ input: process.stdin, output: nowhere, terminal: true });
  const interrupt = new AbortController();
  for (const event of ['SIGINT', 'close'] as const) lines.on(event, () => interrupt.abort());
  process.stderr.write(question);
  try {
    return await lines.question('', { signal: interrupt.signal });
  } catch {
    throw new OsmosisError('INTERRUPTED', 'interrupted; nothing was touched', { phase: 'plan' });
  } finally {
    lines.close();
    process.stderr.write('\n');
  }
}

function refused(why: string): OsmosisError {
  return new OsmosisError('IMAGE_KEY', `${why}. Nothing was touched.`, { phase: 'plan' });
}
