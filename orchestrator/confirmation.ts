/** Asks before something is done that can't be taken back. */
import { createInterface } from 'node:readline/promises';
import { OsmosisError } from '../agent/error.ts';

export type Consent = { readonly yes: boolean };

/** Before anything is touched. @throws OsmosisError USAGE where nobody can be asked and --yes was not said */
export function checkAskable({ yes }: Consent, question = ''): void {
  if (!yes && !process.stdin.isTTY)
    throw new OsmosisError(
      'USAGE',
      `${question} There is no terminal to ask on: say --yes. Nothing was touched.`.trimStart(),
    );
}

/** What the operator has said with `--yes`, or says now. */
export async function isYes({ yes }: Consent, question: string): Promise<boolean> {
  if (yes) return true;
  const lines = createInterface({ input: process.stdin, output: process.stderr });
  const interrupt = new AbortController();
  // Ctrl-C, Ctrl-D, or a terminal that is gone.
  for (const event of ['SIGINT', 'close'] as const) lines.on(event, () => interrupt.abort());
  try {
    const answer = await lines.question(`${question} [y/N] `, { signal: interrupt.signal });
    return /^y(es)?$/i.test(answer.trim());
  } catch (error) {
    if (error instanceof Error && error.name === 'AbortError') return false;
    throw error;
  } finally {
    lines.close();
  }
}

/** @throws OsmosisError USAGE where there is no terminal to ask on, INTERRUPTED where the answer is no */
export async function confirmed(question: string, consent: Consent): Promise<void> {
  checkAskable(consent, question);
  if (!(await isYes(consent, question)))
    throw new OsmosisError('INTERRUPTED', 'nothing was touched', { phase: 'plan' });
}
