/** Asks before something is done that can't be taken back. */
import { createInterface } from 'node:readline/promises';
import { OsmosisError } from '../agent/error.ts';

export type Consent = { readonly yes: boolean };

/**
 * Goes on where the operator has said `--yes`, or says so now.
 * @throws OsmosisError USAGE where there is no terminal to ask on, INTERRUPTED where the answer is no
 */
export async function confirmed(question: string, { yes }: Consent): Promise<void> {
  if (yes) return;
  if (!process.stdin.isTTY)
    throw new OsmosisError(
      'USAGE',
      `${question} There is no terminal to ask on: say --yes. Nothing was touched.`,
    );
  const lines = createInterface({ input: process.stdin, output: process.stderr });
  const interrupt = new AbortController();
  lines.on('SIGINT', () => interrupt.abort());
  try {
    const answer = await lines.question(`${question} [y/N] `, { signal: interrupt.signal });
    if (/^y(es)?$/i.test(answer.trim())) return;
  } catch (error) {
    if (!interrupt.signal.aborted) throw error;
  } finally {
    lines.close();
  }
  throw new OsmosisError('INTERRUPTED', 'nothing was touched', { phase: 'plan' });
}
