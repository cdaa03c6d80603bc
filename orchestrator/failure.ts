/** How the failure of a command is told: docs/errors.md. */
import { CommanderError } from 'commander';
import { asOsmosisError, OsmosisError } from '../agent/error.ts';

/** @param words the command line. @returns the exit status */
export function report(thrown: unknown, words: readonly string[] = process.argv): number {
  const isSaid = thrown instanceof CommanderError;
  if (isSaid && thrown.exitCode === 0) return 0;
  const error = isSaid ? usageError(thrown) : asOsmosisError(thrown);
  if (wantsJson(words)) process.stdout.write(`${JSON.stringify(failureObject(error))}\n`);
  else if (!isSaid) process.stderr.write(`osmosis: ${error.message}\n`);
  if (error.code === 'INTERNAL' && error.stack !== undefined) process.stderr.write(`${error.stack}\n`);
  return error.exitStatus;
}

/** Commander has said it on standard error. */
function usageError({ code, message }: CommanderError): OsmosisError {
  const what = code === 'commander.help' ? 'a command is missing; see osmosis help' : message;
  return new OsmosisError('USAGE', what.replace(/^error: /, ''));
}

/** What is behind -- belongs to another program. */
function wantsJson(words: readonly string[]): boolean {
  const end = words.indexOf('--');
  return words.slice(0, end < 0 ? undefined : end).includes('--json');
}

function failureObject({ code, message, phase, owner, cleanup }: OsmosisError): object {
  return {
    ok: false,
    code,
    phase: phase ?? null,
    owner: owner ?? 'source',
    message,
    ...(cleanup.length > 0 ? { cleanup } : {}),
  };
}
