/** The copying of files under way on this host, both roles. */
import { messageOf, OsmosisError } from '../error.ts';
import { SyncDestination } from './destination.ts';
import { boundTo, isOfThisBoot, Journal } from './journal.ts';
import type { SyncSource } from './source.ts';

/** At once, of each role. */
const SYNCS_MAX = 64;

type Log = {
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
};

export class Syncs {
  readonly #directory: string;
  readonly #log: Log;
  readonly #sources = new Map<string, SyncSource>();
  readonly #destinations = new Map<string, SyncDestination>();

  /** `directory`: on disk; what has to be taken back after a crash. */
  constructor(directory: string, log: Log) {
    this.#directory = directory;
    this.#log = log;
  }

  /** Forgotten when `gone` fires: nothing was touched at a source. */
  beginSource(id: string, source: SyncSource, gone: AbortSignal): void {
    checkRoom(this.#sources);
    this.#sources.set(id, source);
    gone.addEventListener('abort', () => void this.#sources.delete(id), { once: true });
  }

  source(id: string): SyncSource {
    return found(this.#sources, id);
  }

  /** Undone when `gone` fires, unless a migration has it by then: then as that turns out. */
  beginDestination(id: string, gone: AbortSignal): SyncDestination {
    const known = this.#destinations.get(id);
    if (known !== undefined) return known;
    checkRoom(this.#destinations);
    const destination = new SyncDestination(id, this.#directory);
    this.#destinations.set(id, destination);
    gone.addEventListener('abort', () => this.#leftAlone(destination), { once: true });
    return destination;
  }

  destination(id: string): SyncDestination {
    return found(this.#destinations, id);
  }

  /** The process runs here. */
  async keep(id: string | undefined): Promise<void> {
    const destination = id === undefined ? undefined : this.#destinations.get(id);
    if (destination === undefined) return;
    const left = await destination.keep();
    this.#destinations.delete(destination.id);
    if (left.length > 0) this.#log.warn({ left }, 'files that were put aside could not be removed');
  }

  /** The migration that had it is undone. */
  async release(id: string | undefined): Promise<void> {
    const destination = id === undefined ? undefined : this.#destinations.get(id);
    if (destination === undefined) return;
    destination.release();
    if (destination.isAlone) await this.undo(destination.id);
  }

  /** @returns what could not be put back, and why. */
  async undo(id: string): Promise<string[]> {
    const destination = this.#destinations.get(id);
    if (destination === undefined) return [];
    if (destination.boundTo !== undefined)
      throw new OsmosisError('ABORTED', 'a migration has these files: they are as that turns out');
    const left = await destination.undo();
    this.#destinations.delete(id);
    if (left.length > 0) this.#log.error({ left }, 'files could not be put back as they were');
    return left;
  }

  /** What the last agent has left, before its migrations are looked after. */
  load(): void {
    for (const { id, journal } of Journal.left(this.#directory)) {
      const steps = journal.steps();
      const destination = SyncDestination.adopt(id, this.#directory, journal, boundTo(steps));
      this.#destinations.set(id, destination);
      // Its process may have run here, and have written to its files.
      if (destination.boundTo !== undefined && !isOfThisBoot(steps)) void this.#leave(destination);
    }
  }

  /** After that: what no migration has. `bound`: those that have some. */
  async recover(bound: ReadonlySet<string>): Promise<void> {
    for (const destination of [...this.#destinations.values()]) {
      const { boundTo: migration } = destination;
      if (!destination.isAlone || (migration !== undefined && bound.has(migration))) continue;
      destination.release();
      await this.#undone(destination);
    }
  }

  async #leave(destination: SyncDestination): Promise<void> {
    const { id } = destination;
    this.#destinations.delete(id);
    try {
      const aside = await destination.leave();
      this.#log.warn(
        { aside },
        'the host was restarted while a process came here: its files are left as they are',
      );
    } catch (error) {
      this.#log.error({ sync: id, error: messageOf(error) }, 'what was noted of files could not be removed');
    }
  }

  #leftAlone(destination: SyncDestination): void {
    destination.leaveAlone();
    if (destination.boundTo === undefined && this.#destinations.get(destination.id) === destination)
      void this.#undone(destination);
  }

  async #undone({ id }: SyncDestination): Promise<void> {
    try {
      await this.undo(id);
    } catch (error) {
      this.#log.error({ sync: id, error: messageOf(error) }, 'files could not be put back as they were');
    }
  }
}

function found<T>(map: ReadonlyMap<string, T>, id: string): T {
  const one = map.get(id);
  if (one !== undefined) return one;
  throw new OsmosisError('ABORTED', 'the agent knows nothing of these files any more; plan anew');
}

function checkRoom(map: ReadonlyMap<string, unknown>): void {
  if (map.size < SYNCS_MAX) return;
  throw new OsmosisError(
    'BUSY',
    `this host copies the files of ${SYNCS_MAX} moves already; wait for some to end`,
    {
      phase: 'plan',
    },
  );
}
