/**
 * What a destination has done to its files, so that all of it can be taken back, by this agent or the next one: a line of
 * JSON before each step, on disk. The first line names the boot: after another one nobody knows what became of the move.
 */
import { appendFileSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';
import { procText } from '../proc/text.ts';

const stepSchema = z.discriminatedUnion('did', [
  z.object({ did: z.literal('begin'), boot: z.string() }),
  /** A migration has the files from here on: they are as its outcome says. */
  z.object({ did: z.literal('bind'), migration: z.string() }),
  z.object({ did: z.literal('release') }),
  /** A directory was made. */
  z.object({ did: z.literal('mkdir'), path: z.string() }),
  /** A file or link is being made under a name of its own, beside its place. */
  z.object({ did: z.literal('stage'), path: z.string(), staged: z.string() }),
  /** It gets its place. */
  z.object({ did: z.literal('place'), path: z.string(), inode: z.string() }),
  /** What was there is put beside its place. */
  z.object({ did: z.literal('put aside'), path: z.string(), aside: z.string() }),
]);
export type Step = z.infer<typeof stepSchema>;

export class Journal {
  readonly #file: string;

  private constructor(file: string) {
    this.#file = file;
  }

  static create(directory: string, id: string): Journal {
    mkdirSync(directory, { recursive: true, mode: 0o700 });
    const journal = new Journal(join(directory, id));
    journal.add({ did: 'begin', boot: bootId() });
    return journal;
  }

  /** Those that an agent before this one has left, by id. */
  static left(directory: string): { id: string; journal: Journal }[] {
    if (!existsSync(directory)) return [];
    return readdirSync(directory).map((id) => ({ id, journal: new Journal(join(directory, id)) }));
  }

  add(step: Step): void {
    appendFileSync(this.#file, `${JSON.stringify(step)}\n`, { mode: 0o600 });
  }

  /** A last line that was cut short was not acted upon. */
  steps(): Step[] {
    const lines = existsSync(this.#file) ? readFileSync(this.#file, 'utf8').split('\n') : [];
    return lines.flatMap((line) => {
      try {
        return [stepSchema.parse(JSON.parse(line))];
      } catch {
        return [];
      }
    });
  }

  remove(): void {
    rmSync(this.#file, { force: true });
  }
}

/** The migration that has the files, if one has. */
export function boundTo(steps: readonly Step[]): string | undefined {
  const last = steps.findLast(({ did }) => did === 'bind' || did === 'release');
  return last?.did === 'bind' ? last.migration : undefined;
}

export function isOfThisBoot(steps: readonly Step[]): boolean {
  return steps.some((step) => step.did === 'begin' && step.boot === bootId());
}

function bootId(): string {
  return (procText('/proc/sys/kernel/random/boot_id') ?? '').trim();
}
