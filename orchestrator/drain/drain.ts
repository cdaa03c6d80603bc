/** Drains a host: a small loop that does what state.ts decides, and writes down how it goes at the host itself. */
import type { DrainRecord } from '../../agent/control/drain-protocol.ts';
import { asOsmosisError } from '../../agent/error.ts';
import type { AgentClient } from '../agent-client.ts';
import type { MigrationEvent } from '../events.ts';
import type { MigrationResult } from '../migrate.ts';
import { type DrainEvent, type DrainState, decide, drainEnd, drainRows, reduceDrain } from './state.ts';

/** What the host's agent is told of it takes this long at most. */
const RECORD_MS_MAX = 10_000;
/** How often the record says that the drain goes on although nothing happens. */
const RECORD_MS = 10_000;

export type DrainProgress =
  | {
      readonly event: 'move';
      readonly cell: string;
      readonly to: string;
      readonly state: 'started' | 'moved' | 'failed';
      readonly code?: string;
      readonly message?: string;
    }
  | (MigrationEvent & { readonly cell: string });

export type DrainOptions = {
  readonly state: DrainState;
  /** Of the host that is drained; keeps the record. */
  readonly source: AgentClient;
  readonly record: Pick<DrainRecord, 'by' | 'started' | 'deadline'>;
  /** Moves one cell; its own connections, its own end. */
  readonly move: (
    cell: string,
    to: string,
    emit: (event: MigrationEvent) => void,
  ) => Promise<MigrationResult>;
  readonly emit: (event: DrainProgress) => void;
  /** No move begins once it has fired; its reason is `deadline` or `stopped`. */
  readonly stop: AbortSignal;
};

/** Ends when every cell has moved or can't, or nothing may begin any more and what had begun has ended. Never throws for a cell. */
export async function drain({
  source,
  record,
  move,
  emit,
  stop,
  ...options
}: DrainOptions): Promise<DrainState> {
  let { state } = options;
  const moves = new Map<string, Promise<void>>();
  let wake = () => {};
  const apply = (event: DrainEvent) => {
    state = reduceDrain(state, event);
    wake();
  };
  const write = (how: DrainRecord['state']) =>
    writeRecord(source, { ...record, state: how, updated: Date.now(), cells: drainRows(state) });
  const onStop = () => apply({ event: 'stopping', why: stop.reason === 'deadline' ? 'deadline' : 'stopped' });
  stop.addEventListener('abort', onStop, { once: true });
  if (stop.aborted) onStop();
  const timer = setInterval(() => void write('running'), RECORD_MS);
  try {
    for (;;) {
      const { start, unplaced, ended } = decide(state);
      for (const { cell, why } of unplaced) apply({ event: 'unplaced', cell: cell.name, why });
      for (const { cell, to } of start) {
        apply({ event: 'started', cell: cell.name, to });
        emit({ event: 'move', cell: cell.name, to, state: 'started' });
        moves.set(cell.name, moveOne(cell.name, to));
      }
      if (unplaced.length > 0) continue;
      const changed = new Promise<void>((resolve) => {
        wake = resolve;
      });
      await write('running');
      if (ended) return state;
      await changed;
    }
  } finally {
    clearInterval(timer);
    stop.removeEventListener('abort', onStop);
    await Promise.all(moves.values());
    await write(drainEnd(state));
  }

  async function moveOne(cell: string, to: string): Promise<void> {
    try {
      const outcome = await move(cell, to, (event) => emit({ ...event, cell }));
      emit({ event: 'move', cell, to, state: 'moved' });
      apply({ event: 'moved', cell, outcome });
    } catch (thrown) {
      const error = asOsmosisError(thrown);
      emit({ event: 'move', cell, to, state: 'failed', code: error.code, message: error.message });
      apply({ event: 'failed', cell, error });
    }
  }
}

/** A host that does not take it goes on being drained. */
async function writeRecord(source: AgentClient, drain: DrainRecord): Promise<void> {
  await source.call('drain.record', { drain }, { timeoutMs: RECORD_MS_MAX }).catch(() => undefined);
}
