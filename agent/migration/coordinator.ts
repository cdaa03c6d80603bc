/** The migrations under way on this host, both roles: one object each, finished or undone by themselves if need be. */
import { existsSync, readdirSync, rmSync } from 'node:fs';
import { type AgentContext, decisionDirectory, imageDirectory } from '../context.ts';
import { clearOldDecisions, Decision, type Verdict } from '../criu/decision.ts';
import type { FlowId } from '../datapath/model.ts';
import { messageOf, OsmosisError } from '../error.ts';
import { Store } from '../state/store.ts';
import { UnderWay } from '../under-way.ts';
import { DestinationMigration, type DestinationRecord } from './destination.ts';
import { recoverSource } from './recovery.ts';
import { SourceMigration, type SourceRecord } from './source.ts';
import type { Agreed } from './unasked.ts';
import { answerQueries, askVerdict } from './verdicts.ts';

/** Migrations at once on one host, both roles. */
const MIGRATIONS_MAX = 64;
/** After commit the source keeps its fence this long for peers that have not turned yet, if nobody confirms. */
const RELEASE_MS_MAX = 15_000;
/** A decision that no destination has asked for in this long, over restarts of the agent: 7 days. */
const DECISION_KEPT_MS = 7 * 24 * 3_600_000;
/** A destination that is done asks this long once more, so that a source that nobody else tells may forget. */
const LAST_QUESTION_MS_MAX = 10_000;
/** The same where the orchestrator has led to the end: the source knows by now, unless the orchestrator has just died. */
const LED_QUESTION_MS_MAX = 1_000;
const CONFIRM_MS_MAX = 5_000;

type Confirmed = { readonly pid: number; readonly silent: string[]; readonly flip_ms: number[] };

export class Coordinator {
  readonly #context: AgentContext;
  readonly #agreed: Agreed;
  readonly #store: Store<SourceRecord | DestinationRecord>;
  readonly #sources = new Map<string, SourceMigration>();
  readonly #destinations = new Map<string, DestinationMigration>();
  readonly #stop = new AbortController();
  readonly #undoing = new UnderWay<boolean>();
  readonly #takingBack = new UnderWay<void>();
  readonly #confirming = new UnderWay<Confirmed>();

  constructor(context: AgentContext, agreed: Agreed) {
    this.#context = context;
    this.#agreed = agreed;
    this.#store = new Store(`${context.paths.run}/migrations`);
    answerQueries(context, (migration) => this.#sources.has(migration));
  }

  /** Whether a flow of this host belongs to a cell that is being moved away just now. */
  isLeaving(id: FlowId): boolean {
    return [...this.#sources.values()].some((migration) => migration.isLeaving(id));
  }

  stop(): void {
    this.#stop.abort(new OsmosisError('INTERRUPTED', 'the agent stops'));
  }

  /** @throws OsmosisError BUSY where the cell is being moved already. */
  beginSource(id: string, cell: string, gone: AbortSignal): SourceMigration {
    const { registry } = this.#context;
    const found = registry.get(cell);
    if (found === undefined)
      throw new OsmosisError('NO_SUCH_TARGET', 'the plan is too old: plan anew', { phase: 'prepare' });
    this.#checkRoom();
    registry.lock(cell);
    const migration = new SourceMigration(this.#context, id, found, this.#agreed);
    this.#sources.set(id, migration);
    this.#context.journal.begin('source', id, { cell: found.name, cell_id: cell, kind: 'move' });
    gone.addEventListener('abort', () => void this.#sourceAlone(migration), { once: true });
    return migration;
  }

  source(id: string): SourceMigration {
    const found = this.#sources.get(id);
    if (found === undefined)
      throw new OsmosisError('ABORTED', 'the source knows no such migration any more; plan anew', {
        owner: 'source',
      });
    return found;
  }

  /** For an agent that comes back: what this migration has put into kernel and files. */
  remember(migration: SourceMigration): void {
    // Nothing is left to find of one that was undone in the meantime.
    if (this.#sources.get(migration.id) === migration)
      this.#store.put(`source-${migration.id}`, migration.record());
  }

  async beginDestination(
    id: string,
    request: ConstructorParameters<typeof DestinationMigration>[2],
    gone: AbortSignal,
  ): Promise<DestinationMigration> {
    this.#checkRoom();
    this.#context.registry.lock(request.snapshot.cell);
    this.#bindFiles(id, request);
    const migration = new DestinationMigration(this.#context, id, request, (record) =>
      this.#store.put(`destination-${id}`, record),
    );
    this.#destinations.set(id, migration);
    const { cell: cell_id, name, flows } = request.snapshot;
    const kind = request.source === undefined ? 'resume' : 'move';
    const begun = { cell: name, cell_id, kind, flows: flows.length } as const;
    this.#context.journal.begin('destination', id, begun);
    gone.addEventListener('abort', () => void this.#destinationAlone(migration), { once: true });
    return migration;
  }

  /** Migrations to this host. */
  get arriving(): ReadonlySet<string> {
    return new Set(this.#destinations.keys());
  }

  #bindFiles(id: string, { snapshot, sync }: ConstructorParameters<typeof DestinationMigration>[2]): void {
    if (sync === undefined) return;
    try {
      this.#context.syncs.destination(sync).bind(id);
    } catch (error) {
      this.#context.registry.unlock(snapshot.cell);
      throw error;
    }
  }

  destination(id: string): DestinationMigration {
    const found = this.#destinations.get(id);
    if (found === undefined)
      throw new OsmosisError('ABORTED', 'the destination knows no such migration any more; plan anew');
    return found;
  }

  /** @returns whether commit had been decided: then nothing was undone. */
  abortSource(id: string): Promise<boolean> {
    return this.#undoing.join(id, () => this.#abortSource(id));
  }

  async #abortSource(id: string): Promise<boolean> {
    const migration = this.#sources.get(id);
    if (migration === undefined)
      return new Decision(decisionDirectory(this.#context), id).read() === 'commit';
    const undone = await migration.undo();
    if (undone) this.#endSource(migration, 'undone');
    return !undone;
  }

  /** The destination knows: after a commit the source lets go, in any case it forgets. */
  async confirmSource(id: string): Promise<void> {
    const migration = this.#sources.get(id);
    if (migration === undefined) return new Decision(decisionDirectory(this.#context), id).clear();
    if (migration.suspends && migration.isCommitted) {
      migration.mark();
      this.remember(migration);
      const letGo = this.#letGoOfHeld(migration);
      // A peer that is silent must not keep the operator waiting.
      if (migration.isHeld) await letGo;
      return;
    }
    const outcome = migration.isCommitted ? 'committed' : 'undone';
    if (migration.isCommitted) await migration.release();
    this.#endSource(migration, outcome);
    migration.forget();
  }

  /** After the commit of a suspension. @returns peers that have not acknowledged within CONFIRM_MS_MAX. */
  async holdSource(id: string): Promise<string[]> {
    return this.source(id).hold(CONFIRM_MS_MAX);
  }

  /** Once all its peers hold it nothing of a suspended cell is needed here, but what its file may ask for. */
  async #letGoOfHeld(migration: SourceMigration): Promise<void> {
    try {
      await migration.held();
      if (this.#sources.get(migration.id) === migration) {
        await migration.release();
        this.#endSource(migration, 'committed');
      }
      if (migration.isMarked) migration.forget();
    } catch (error) {
      this.#context.log.error(
        { migration: migration.id, error: messageOf(error) },
        'what is left of a suspended cell could not be taken away',
      );
    }
  }

  #endSource(migration: SourceMigration, outcome: 'committed' | 'undone'): void {
    // Once: the cell may be another migration's by now.
    if (!this.#sources.delete(migration.id)) return;
    this.#store.remove(`source-${migration.id}`);
    this.#context.registry.unlock(migration.cell.id);
    rmSync(imageDirectory(this.#context, migration.id), { recursive: true, force: true });
    if (!migration.wasFrozen) migration.forget();
    this.#context.journal.ended('source', migration.id, outcome);
  }

  abortDestination(id: string): Promise<void> {
    return this.#takingBack.join(id, () => this.#abortDestination(id));
  }

  async #abortDestination(id: string): Promise<void> {
    const migration = this.#destinations.get(id);
    if (migration === undefined) return;
    await migration.undo();
    this.#endDestination(migration, 'undone');
    await this.#context.syncs.release(migration.record().sync);
    this.#askOnceMore(migration, LAST_QUESTION_MS_MAX);
  }

  confirmDestination(id: string): Promise<Confirmed> {
    return this.#confirming.join(id, () => this.#confirmDestination(id));
  }

  async #confirmDestination(id: string): Promise<Confirmed> {
    const migration = this.destination(id);
    const pid = migration.rootPid() ?? 0;
    const confirmed = await migration.confirm(CONFIRM_MS_MAX);
    // Before it is forgotten: nobody may take files for left over that the process uses.
    await this.#context.syncs.keep(migration.record().sync);
    migration.end();
    this.#context.journal.turned(confirmed.flip_ms);
    this.#endDestination(migration, 'committed');
    return { pid, ...confirmed };
  }

  #endDestination(migration: DestinationMigration, outcome: 'committed' | 'undone'): void {
    if (!this.#destinations.delete(migration.id)) return;
    this.#store.remove(`destination-${migration.id}`);
    this.#context.registry.unlock(migration.record().snapshot.cell);
    this.#context.journal.ended('destination', migration.id, outcome);
  }

  #checkRoom(): void {
    if (this.#sources.size + this.#destinations.size >= MIGRATIONS_MAX) {
      throw new OsmosisError(
        'BUSY',
        `this host takes part in ${MIGRATIONS_MAX} migrations already; wait for some to end`,
        { phase: 'prepare' },
      );
    }
  }

  /** The orchestrator is gone: undo, or, where it was decided, give the destination its time and let go. */
  async #sourceAlone(migration: SourceMigration): Promise<void> {
    if (this.#sources.get(migration.id) !== migration) return;
    try {
      if (!(await this.abortSource(migration.id))) return;
      if (migration.suspends) return await this.#letGoOfHeld(migration);
      await new Promise((resolve) => setTimeout(resolve, RELEASE_MS_MAX).unref());
      if (this.#sources.get(migration.id) !== migration) return;
      await migration.release();
      this.#endSource(migration, 'committed');
    } catch (error) {
      this.#context.log.error(
        { migration: migration.id, error: messageOf(error) },
        'the source could not finish alone',
      );
    }
  }

  /** The orchestrator is gone: undo if nothing was restored, else ask the source, and do as it has decided. */
  async #destinationAlone(migration: DestinationMigration): Promise<void> {
    const { id } = migration;
    // Confirmed, but the orchestrator may have gone before it told the source so.
    if (this.#destinations.get(id) !== migration) return this.#askOnceMore(migration, LED_QUESTION_MS_MAX);
    try {
      if (migration.stage === 'restored') {
        const verdict = await this.#verdictOn(migration);
        this.#context.log.warn({ migration: id, verdict }, 'the decision on a migration that nobody leads');
        if (this.#destinations.get(id) !== migration) return;
        if (verdict === 'commit') await migration.resume();
      }
      if (migration.stage === 'committed') await migration.resume();
      if (migration.stage === 'running') {
        await this.confirmDestination(id);
        this.#askOnceMore(migration, LAST_QUESTION_MS_MAX);
      } else await this.abortDestination(id);
    } catch (error) {
      if (!this.#stop.signal.aborted)
        this.#context.log.error(
          { migration: id, error: messageOf(error) },
          'the destination could not finish alone',
        );
    }
  }

  /** The source's, or of a cell that comes out of a file this host's own: undecided is aborted now. */
  async #verdictOn(migration: DestinationMigration): Promise<Verdict> {
    return migration.source === undefined
      ? migration.decide('abort')
      : await this.#ask(migration.id, migration.source, this.#stop.signal);
  }

  #askOnceMore({ id, source }: DestinationMigration, msMax: number): void {
    if (source !== undefined) void this.#ask(id, source, AbortSignal.timeout(msMax)).catch(() => undefined);
  }

  #ask(
    id: string,
    { addresses, key }: NonNullable<DestinationMigration['source']>,
    signal: AbortSignal,
  ): Promise<Verdict> {
    const secret = { migration: Buffer.from(id, 'hex'), key };
    return askVerdict(this.#context.socket, secret, addresses, signal);
  }

  /** After a restart: every migration that the last agent left is finished or undone. */
  async recover(): Promise<void> {
    for (const record of this.#store.all()) {
      try {
        if (record.role === 'source') await this.#recoverSource(record);
        else this.#recoverDestination(record);
      } catch (error) {
        const { migration } = record;
        // The other cells of this host need their agent; this one is tried again when it next starts.
        this.#context.log.error({ migration, error: messageOf(error) }, 'a migration could not be recovered');
      }
    }
    this.#sweepFiles();
    clearOldDecisions(decisionDirectory(this.#context), DECISION_KEPT_MS);
  }

  async #recoverSource(record: SourceRecord): Promise<void> {
    await recoverSource(this.#context, record, {
      release_ms: RELEASE_MS_MAX,
      forget: () => this.#store.remove(`source-${record.migration}`),
      stop: this.#stop.signal,
    });
  }

  #recoverDestination(record: DestinationRecord): void {
    const { migration: id } = record;
    const migration = DestinationMigration.adopt(this.#context, record, (next) =>
      this.#store.put(`destination-${id}`, next),
    );
    this.#destinations.set(id, migration);
    const { cell, name, flows } = record.snapshot;
    this.#context.log.warn(
      { role: 'destination', cell: name, stage: record.stage, cell_id: cell, migration: id },
      'found a migration of the last agent',
    );
    const kind = record.source === undefined ? 'resume' : 'move';
    const begun = { cell: name, cell_id: cell, kind, flows: flows.length, recovered: true } as const;
    this.#context.journal.begin('destination', id, begun);
    void this.#destinationAlone(migration);
  }

  /** Images and decisions that belong to no migration. A commit is kept: its destination may still ask. */
  #sweepFiles(): void {
    const images = `${this.#context.paths.run}/images`;
    for (const id of existsSync(images) ? readdirSync(images) : []) {
      if (!this.#destinations.has(id))
        rmSync(imageDirectory(this.#context, id), { recursive: true, force: true });
    }
  }
}
