/** The destination's half: takes what comes, and lets go of what was before or puts it back, as the move turns out. */
import type { Result } from '../control/protocol.ts';
import type { SyncFact } from '../control/sync-protocol.ts';
import { OsmosisError } from '../error.ts';
import { decodeSyncPiece, SyncStreamError } from '../wire/sync.ts';
import { type Compared, compareFiles } from './compare.ts';
import { Journal } from './journal.ts';
import { checkTrees } from './paths.ts';
import { letGo, takeBack } from './undo.ts';
import { FileWriter } from './writing.ts';

type Begin = {
  trees: readonly string[];
  replace: readonly string[];
  remove: readonly string[];
  same: readonly string[];
};

export class SyncDestination {
  readonly id: string;
  readonly #directory: string;
  readonly #compared: Compared = new Map();
  readonly #abort = new AbortController();
  #journal: Journal | undefined;
  #writer: FileWriter | undefined;
  #step: Promise<unknown> = Promise.resolve();
  /** Whoever drives it has gone: it is undone as soon as no migration has it. */
  #isAlone = false;
  #boundTo: string | undefined;
  #ended: Promise<string[]> | undefined;

  constructor(id: string, directory: string) {
    this.id = id;
    this.#directory = directory;
  }

  /** What an agent before this one has left. */
  static adopt(
    id: string,
    directory: string,
    journal: Journal,
    boundTo: string | undefined,
  ): SyncDestination {
    const found = new SyncDestination(id, directory);
    found.#journal = journal;
    found.#boundTo = boundTo;
    found.#isAlone = true;
    return found;
  }

  get boundTo(): string | undefined {
    return this.#boundTo;
  }

  get isAlone(): boolean {
    return this.#isAlone;
  }

  compare(
    facts: readonly SyncFact[],
    trees: readonly string[],
    signal: AbortSignal,
  ): Promise<Result<'sync.compare'>> {
    this.#compared.clear();
    return this.#during(compareFiles(facts, trees, this.#compared, this.#either(signal)));
  }

  begin({ trees, replace, remove, same }: Begin): void {
    checkTrees(trees);
    if (this.#journal !== undefined) throw new OsmosisError('ABORTED', 'the files are under way already');
    this.#journal = Journal.create(this.#directory, this.id);
    const allowed = { trees, replace: new Set(replace), same: new Set(same), compared: this.#compared };
    this.#writer = new FileWriter(this.id, this.#journal, allowed);
    this.#writer.remove(remove);
  }

  /** One pass. @throws OsmosisError SYNC_CHANGED, SYNC_FAILED, NO_ROOM */
  write(
    pieces: AsyncIterable<Buffer>,
    final: boolean,
    signal: AbortSignal,
  ): Promise<{ files: number; bytes: number }> {
    return this.#during(this.#write(pieces, final, this.#either(signal)));
  }

  async #write(
    pieces: AsyncIterable<Buffer>,
    final: boolean,
    signal: AbortSignal,
  ): Promise<{ files: number; bytes: number }> {
    const writer = this.#writer;
    if (writer === undefined || this.#ended !== undefined)
      throw new OsmosisError('ABORTED', 'the destination knows nothing of these files any more; plan anew');
    writer.beginPass(final);
    try {
      for await (const piece of pieces) {
        for (const record of recordsOf(piece)) {
          signal.throwIfAborted();
          await writer.write(record);
        }
      }
      await writer.endPass(signal);
      return { files: writer.files, bytes: writer.bytes };
    } finally {
      writer.close();
    }
  }

  /** From here on they are as the migration turns out. */
  bind(migration: string): void {
    if (this.#journal === undefined || this.#ended !== undefined)
      throw new OsmosisError('ABORTED', 'the destination knows nothing of these files any more; plan anew');
    this.#journal.add({ did: 'bind', migration });
    this.#boundTo = migration;
  }

  /** The migration was undone; another try may come. */
  release(): void {
    if (this.#boundTo === undefined || this.#ended !== undefined) return;
    this.#journal?.add({ did: 'release' });
    this.#boundTo = undefined;
  }

  leaveAlone(): void {
    this.#isAlone = true;
  }

  /** Everything is as it was. @returns what could not be put back, and why. */
  undo(): Promise<string[]> {
    this.#abort.abort(new OsmosisError('ABORTED', 'the move was undone'));
    return this.#end(takeBack);
  }

  /** The process runs here: they stay, and what was before them goes. */
  keep(): Promise<string[]> {
    return this.#end(letGo);
  }

  /** Nobody knows what became of it: nothing is touched, and what was put aside can be found. @returns where. */
  async leave(): Promise<string[]> {
    return await this.#end(async (steps) =>
      steps.flatMap((step) => (step.did === 'put aside' ? [step.aside] : [])),
    );
  }

  #end(act: (steps: ReturnType<Journal['steps']>) => Promise<string[]>): Promise<string[]> {
    this.#ended ??= this.#endOnce(act);
    return this.#ended;
  }

  async #endOnce(act: (steps: ReturnType<Journal['steps']>) => Promise<string[]>): Promise<string[]> {
    await this.#step;
    const steps = this.#journal?.steps() ?? [];
    const left = await act(steps);
    this.#journal?.remove();
    return left;
  }

  #either(signal: AbortSignal): AbortSignal {
    return AbortSignal.any([signal, this.#abort.signal]);
  }

  /** An undoing must not meet it half done. */
  #during<T>(step: Promise<T>): Promise<T> {
    this.#step = Promise.all([this.#step, step.catch(() => undefined)]);
    return step;
  }
}

function* recordsOf(piece: Buffer): ReturnType<typeof decodeSyncPiece> {
  try {
    yield* decodeSyncPiece(piece);
  } catch (cause) {
    if (!(cause instanceof SyncStreamError)) throw cause;
    throw new OsmosisError(
      'SYNC_FAILED',
      `the files came damaged: ${cause.message}; the process goes on at the source`,
      {
        cause,
      },
    );
  }
}
