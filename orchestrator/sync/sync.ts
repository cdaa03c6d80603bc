/** Drives the copying of a move's files: plans, copies while the process runs, and what is left while it stands still. */
import { randomBytes } from 'node:crypto';
import type { Result, Snapshot } from '../../agent/control/protocol.ts';
import { messageOf } from '../../agent/error.ts';
import { checkTrees, outermost } from '../../agent/sync/paths.ts';
import type { AgentClient, CallOptions } from '../agent-client.ts';
import type { MigrationEvent } from '../events.ts';
import { type PlannedSync, planSync } from './plan.ts';

export type SyncRequest = {
  /** Directories that go along as a whole. */
  readonly paths: readonly string[];
  /** What differs at the destination gives way. */
  readonly force: boolean;
};

/** For the files only: they come while other things are said, and the image comes. */
export type SyncChannels = { readonly from: AgentClient; readonly to: AgentClient };

export type Synced = {
  /** That the destination has got. */
  readonly files: number;
  /** Sent while the process ran. */
  readonly bytes: number;
  /** While it stood still. */
  readonly delta_bytes: number;
  readonly delta_ms: number;
};

/** Passes before the freeze: as long as each leaves less than half of the one before to be sent. */
const PASSES_MAX = 5;
/** This little can be sent while the process stands still. */
const SMALL_BYTES = 4 * 1024 * 1024;
/** A pass, or a comparison, of very much. */
const PASS_MS_MAX = 24 * 3_600_000;
const UNDO_MS_MAX = 120_000;
const PROGRESS_MS = 100;
const NAMED_MAX = 5;

type Pass = { readonly sent: Result<'sync.read'>; readonly ms: number };

/** @throws OsmosisError USAGE */
export function syncRequest(paths: readonly string[], force: boolean): SyncRequest {
  checkTrees(outermost(paths));
  return { paths: outermost(paths), force };
}

export class FileSync {
  readonly id = randomBytes(16).toString('hex');
  readonly #request: SyncRequest;
  readonly #source: AgentClient;
  readonly #destination: AgentClient;
  readonly #channels: SyncChannels;
  readonly #emit: (event: MigrationEvent) => void;
  #planned: PlannedSync | undefined;
  /** The destination may have been written to. */
  #begun = false;
  #passes = 0;
  #synced: Synced = { files: 0, bytes: 0, delta_bytes: 0, delta_ms: 0 };

  constructor(
    request: SyncRequest,
    agents: { source: AgentClient; destination: AgentClient; channels: SyncChannels },
    emit: (event: MigrationEvent) => void,
  ) {
    this.#request = request;
    this.#source = agents.source;
    this.#destination = agents.destination;
    this.#channels = agents.channels;
    this.#emit = emit;
  }

  get synced(): Synced {
    return this.#synced;
  }

  /** Once: another try of the same move goes on with what has been copied. */
  async plan(snapshot: Snapshot, options: CallOptions): Promise<PlannedSync> {
    this.#planned ??= await this.#compare(snapshot, { ...options, timeoutMs: PASS_MS_MAX });
    return this.#planned;
  }

  async #compare({ cell }: Snapshot, options: CallOptions): Promise<PlannedSync> {
    const { id: sync } = this;
    const { paths, force } = this.#request;
    const listed = await this.#source.call('sync.list', { sync, cell, paths: [...paths] }, options);
    const { facts, notes, problems: sourceProblems } = listed;
    const there = await this.#destination.call('sync.compare', { sync, facts, trees: [...paths] }, options);
    const asked = facts.filter((_, at) => there.found[at]?.hash !== undefined).map(({ path }) => path);
    const { hashes } = await this.#source.call('sync.hash', { sync, paths: asked }, options);
    const byPath = new Map(asked.map((path, at) => [path, hashes[at] ?? null]));
    return planSync({ ...there, facts, hashes: byPath, notes, sourceProblems, force });
  }

  /** While the process runs. @throws OsmosisError SYNC_CHANGED, SYNC_FAILED, NO_ROOM; `undo` puts everything back. */
  async copy(options: CallOptions): Promise<void> {
    await this.#begin(options);
    for (let pass = 1, before = Number.POSITIVE_INFINITY; pass <= PASSES_MAX; pass++) {
      const { sent } = await this.#pass(false, options);
      const { files, bytes } = this.#synced;
      this.#synced = { ...this.#synced, files: files + sent.files, bytes: bytes + sent.bytes };
      // The first one takes its time, and things change meanwhile.
      if (pass > 1 && (sent.bytes < SMALL_BYTES || sent.bytes > before / 2)) return;
      before = sent.bytes;
    }
  }

  /** It stands still. */
  async delta(options: CallOptions): Promise<void> {
    const { sent, ms } = await this.#pass(true, options);
    const { files, bytes } = this.#synced;
    this.#synced = {
      files: files + sent.files,
      bytes,
      delta_bytes: sent.bytes,
      delta_ms: Math.round(ms * 10) / 10,
    };
    if (sent.unsteady.length === 0) return;
    const names = sent.unsteady.slice(0, NAMED_MAX).join(', ');
    const message = `files changed while the process stood still, so that somebody else writes to them: ${names}`;
    this.#emit({ event: 'note', level: 'warn', message });
  }

  /** The destination as it was. @returns what went wrong. */
  async undo(): Promise<string[]> {
    if (!this.#begun) return [];
    try {
      const { left } = await this.#destination.call(
        'sync.undo',
        { sync: this.id },
        { timeoutMs: UNDO_MS_MAX },
      );
      return left.map((what) => `files at the destination: ${what}`);
    } catch (thrown) {
      return [`files at the destination: ${messageOf(thrown)}`];
    }
  }

  async #begin(options: CallOptions): Promise<void> {
    if (this.#begun) return;
    this.#begun = true;
    const paths = (state: string) => this.#rows(state);
    const what = { replace: paths('replace'), remove: paths('remove'), same: paths('same') };
    await this.#destination.call(
      'sync.begin',
      { sync: this.id, trees: [...this.#request.paths], ...what },
      options,
    );
  }

  #rows(state: string): string[] {
    const rows = this.#planned?.rows ?? [];
    return rows.filter((row) => row.state === state && row.type !== 'directory').map(({ path }) => path);
  }

  async #pass(final: boolean, { signal }: CallOptions): Promise<Pass> {
    const { from, to } = this.#channels;
    const isFirst = this.#passes++ === 0;
    const [same, leave] = isFirst ? [this.#rows('same'), this.#rows('leave')] : [[], []];
    const started = performance.now();
    this.#relay(started, isFirst);
    // Whichever of the two fails first is what went wrong; the other one is told to stop.
    const other = new AbortController();
    const until = {
      signal: signal === undefined ? other.signal : AbortSignal.any([signal, other.signal]),
      timeoutMs: PASS_MS_MAX,
    };
    const stop = (error: unknown) => {
      other.abort(error);
      throw error;
    };
    const [sent] = await Promise.all([
      from.call('sync.read', { sync: this.id, same, leave, final }, until).catch(stop),
      to.call('sync.write', { sync: this.id, final }, until).catch(stop),
    ]);
    return { sent, ms: performance.now() - started };
  }

  /** Never more held than the two streams hold. */
  #relay(started: number, isFirst: boolean): void {
    const { from, to } = this.#channels;
    const total =
      isFirst && this.#planned ? this.#planned.plan.copy.bytes + this.#planned.plan.replace.bytes : undefined;
    let bytes = 0;
    let reportedAt = started;
    from.receiveImage(async ({ kind, body }) => {
      if (kind !== 'data' && kind !== 'end') return;
      if (kind === 'data') bytes += body.length;
      const now = performance.now();
      if (now - reportedAt >= PROGRESS_MS) {
        reportedAt = now;
        const bytes_per_s = Math.round((bytes * 1_000) / Math.max(now - started, 1));
        this.#emit({
          event: 'files',
          bytes,
          bytes_per_s,
          ...(total === undefined ? {} : { total_bytes: total }),
        });
      }
      await to.sendImage(kind, body);
    });
  }
}
