/** `osmosis complete`: what a shell asks when somebody presses TAB. */
import type { Command } from 'commander';
import { type Candidate, type Kind, starting, wantedAt, wordsOf } from '../completion/candidates.ts';
import { plainText } from '../display/format.ts';

/** A key press that nobody answers by then is not answered. */
const COMPLETE_MS_MAX = 2_000;

type HostSources = { readonly fleet?: string; readonly sshConfig?: string };

/** `line`: all of it up to the cursor, `osmosis` included; otherwise `words` behind that. */
export async function runComplete(
  program: Command,
  words: readonly string[],
  options: HostSources & { readonly line?: string },
): Promise<void> {
  setTimeout(() => process.exit(0), COMPLETE_MS_MAX).unref();
  const typed = options.line === undefined ? words : wordsOf(options.line).slice(1);
  const { candidates, kind, prefix } = wantedAt(program, typed);
  const found = kind === undefined ? [] : await lookedUp(kind, options);
  const looked = found.map(({ value, description }) => ({ value: prefix + value, description }));
  const all = [...candidates, ...starting(looked, typed.at(-1) ?? '')];
  process.stdout.write(all.map(lineOf).join(''));
}

async function lookedUp(kind: Kind, options: HostSources): Promise<Candidate[]> {
  const { cellCandidates, hostCandidates } = await import('../completion/sources.ts');
  return kind === 'cell' ? await cellCandidates() : await hostCandidates(options);
}

function lineOf({ value, description }: Candidate): string {
  return `${value}\t${plainText(description)}\n`;
}
