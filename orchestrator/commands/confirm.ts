/** Asks before something changes. */
import { createInterface } from 'node:readline/promises';
import { OsmosisError } from '../../agent/error.ts';

type Asking = { readonly yes: boolean };

/** Before anything is touched. @throws OsmosisError USAGE where nobody can be asked and --yes was not said */
export function checkAskable({ yes }: Asking): void {
  if (!yes && !process.stdin.isTTY)
    throw new OsmosisError('USAGE', 'there is no terminal to ask on: say --yes; nothing was touched');
}

export async function isYes({ yes }: Asking, question: string): Promise<boolean> {
  if (yes) return true;
  const lines = createInterface({ input: process.stdin, output: process.stderr });
  const interrupt = new AbortController();
  lines.on('SIGINT', () => interrupt.abort());
  try {
    const answer = await lines.question(`${question} [y/N] `, { signal: interrupt.signal });
    return /^y(es)?$/i.test(answer.trim());
  } catch {
    return false;
  } finally {
    lines.close();
  }
}
