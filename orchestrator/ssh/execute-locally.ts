/** A program on this machine, run to its end. */
import { execa } from 'execa';
import { messageOf, OsmosisError } from '../../agent/error.ts';
import { type Executed, type Execution, OUTPUT_BYTES_MAX, tooLong } from './execute.ts';

/** @throws OsmosisError TIMEOUT, INTERRUPTED, INTERNAL where there is no such program */
export async function executeLocally(
  argv: readonly string[],
  { signal, timeoutMs, input }: Execution,
): Promise<Executed> {
  const [file = '', ...args] = argv;
  const child = execa(file, args, {
    reject: false,
    cancelSignal: signal,
    timeout: timeoutMs,
    maxBuffer: OUTPUT_BYTES_MAX,
    ...(typeof input === 'string'
      ? { input }
      : input === undefined
        ? { stdin: 'ignore' }
        : { input: input() }),
  });
  const { exitCode = null, stdout, stderr, timedOut, isCanceled, failed, cause } = await child;
  if (isCanceled) throw new OsmosisError('INTERRUPTED', `interrupted during ${file}`);
  if (timedOut) throw tooLong('this machine', file, timeoutMs);
  if (failed && exitCode === null && cause !== undefined)
    throw new OsmosisError('INTERNAL', `${file} did not run here: ${messageOf(cause)}`, { cause });
  return { status: exitCode, stdout: String(stdout ?? ''), stderr: String(stderr ?? '') };
}
