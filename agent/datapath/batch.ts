/**
 * One `bpftool batch` that stays, so that the flip at a handoff does not wait for a program to start (5 ms; 0.04 ms
 * so). bpftool executes line by line as they come, prints nothing for an update or a deletion that worked, and exits at
 * the first that did not, with the reason on stderr. `version` is the one line that always answers: it marks the end.
 */
import { execa, type ResultPromise } from 'execa';
import { OsmosisError } from '../error.ts';
import { toolEnvironment } from './run.ts';

/** bpftool buffers what it prints into a pipe; stdbuf(1) of coreutils makes it flush each line. */
const ARGV = ['-oL', 'bpftool', 'batch', 'file', '-'];
const MARK = 'version\n';
const MARKED = /^bpftool v/m;
const BATCH_MS_MAX = 10_000;
const OPTIONS = {
  buffer: false,
  reject: false,
  stdin: 'pipe',
  stdout: 'pipe',
  stderr: 'pipe',
  env: toolEnvironment(),
} as const;

type Child = ResultPromise<typeof OPTIONS>;

export class Batch {
  #child: Child | undefined;
  #tail: Promise<unknown> = Promise.resolve();

  /**
   * Resolves when the kernel has taken all lines, in order, after those of earlier calls. OsmosisError DATAPATH with
   * bpftool's reason at the first line that failed; the lines before it are done, those after it are not.
   */
  run(lines: readonly string[]): Promise<void> {
    const done = this.#tail.then(() => this.#execute(lines));
    this.#tail = done.catch(() => {});
    return done;
  }

  /** Lets the child end; what it was told stays done. */
  async close(): Promise<void> {
    await this.#tail;
    const child = this.#child;
    this.#child = undefined;
    child?.stdin.end();
    await child;
  }

  async #execute(lines: readonly string[]): Promise<void> {
    const child = this.#start();
    const output = { stdout: '', stderr: '' };
    const answered = Promise.withResolvers<void>();
    const onStdout = (chunk: Buffer) => {
      output.stdout += chunk.toString();
      if (MARKED.test(output.stdout)) answered.resolve();
    };
    const onStderr = (chunk: Buffer) => {
      output.stderr += chunk.toString();
    };
    const deadline = setTimeout(() => child.kill('SIGKILL'), BATCH_MS_MAX);
    child.stdout.on('data', onStdout);
    child.stderr.on('data', onStderr);
    try {
      child.stdin.write(`${lines.join('\n')}\n${MARK}`);
      await Promise.race([
        answered.promise,
        child.then((end) => this.#fail(end.shortMessage, output.stderr)),
      ]);
    } finally {
      clearTimeout(deadline);
      child.stdout.off('data', onStdout);
      child.stderr.off('data', onStderr);
    }
  }

  #start(): Child {
    if (this.#child !== undefined) return this.#child;
    const child = execa('stdbuf', ARGV, OPTIONS);
    // A child that ended while lines were still being written: its exit says why, not the broken pipe.
    child.stdin.on('error', () => {});
    // Flowing, so that nothing is left over from one run to the next.
    child.stdout.resume();
    child.stderr.resume();
    child.finally(() => {
      if (this.#child === child) this.#child = undefined;
    });
    this.#child = child;
    return child;
  }

  #fail(shortMessage: string | undefined, stderr: string): never {
    const reason = stderr.trim().replaceAll(/\s*\n\s*/g, '; ') || shortMessage || 'it ended';
    throw new OsmosisError(
      'DATAPATH',
      `bpftool batch failed: ${reason}; see \`osmosis datapath\` for what is there`,
    );
  }
}
