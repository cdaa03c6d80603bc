/** What a migration, a suspension and a resumption share: their limits, and how a failure of one is told. */
import type { Snapshot } from '../agent/control/protocol.ts';
import { asOsmosisError, OsmosisError, type Owner } from '../agent/error.ts';
import { isCommitted, type Phase } from '../agent/phases.ts';
import type { MigrationEvent } from './events.ts';

export const UNDO_MS_MAX = 45_000;
export const SLOW_MS_MAX = 600_000;

/** What went wrong first: before the commit, Ctrl-C is the reason for whatever follows from it. */
export function firstError(error: unknown, phase: Phase, signal: AbortSignal): OsmosisError {
  return signal.aborted && !isCommitted(phase)
    ? new OsmosisError('INTERRUPTED', 'interrupted')
    : asOsmosisError(error, 'INTERNAL');
}

type Outcome = {
  readonly phase: Phase;
  readonly owner: Owner;
  /** Said after `message`. */
  readonly state: string;
  readonly cleanup?: readonly string[];
  readonly message?: string;
};

/** The first error, with who owns the process now, in what state it is, and what could not be cleaned up. */
export function told(
  first: OsmosisError,
  { phase, owner, state, cleanup = [], message = first.message }: Outcome,
): OsmosisError {
  return new OsmosisError(first.code, message + state, {
    phase,
    owner,
    cause: first,
    cleanup: [...first.cleanup, ...cleanup],
  });
}

export function warnOfOutside({ outside }: Snapshot, emit: (event: MigrationEvent) => void): void {
  for (const { what } of outside) {
    const message = `${what} has its other end outside of the tree: it becomes /dev/null`;
    emit({ event: 'note', level: 'warn', message });
  }
}
