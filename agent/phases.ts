/**
 * The phase table: for each phase of a migration what comes next, who owns the process during it, and what a failure
 * in it leads to. The migration, the agents' recovery and the docs all read this one table.
 */
export const PHASES = [
  'plan',
  'sync',
  'prepare',
  'freeze',
  'restore',
  'commit',
  'redirect',
  'confirm',
] as const;
export type Phase = (typeof PHASES)[number];
/** Files are copied only where that was asked for. */
export const USUAL_PHASES = PHASES.filter((phase) => phase !== 'sync');

/** `refuse`: nothing was touched. `undo`: put back and keep running at the source. `finish`: go on at the destination. */
export type Recovery = 'refuse' | 'undo' | 'finish';

type PhaseRow = {
  readonly next: Phase | 'done';
  readonly owner: 'source' | 'destination';
  readonly recovery: Recovery;
};

export const PHASE_TABLE = {
  plan: { next: 'sync', owner: 'source', recovery: 'refuse' },
  sync: { next: 'prepare', owner: 'source', recovery: 'undo' },
  prepare: { next: 'freeze', owner: 'source', recovery: 'undo' },
  freeze: { next: 'restore', owner: 'source', recovery: 'undo' },
  restore: { next: 'commit', owner: 'source', recovery: 'undo' },
  // The decision is one durable file at the source: until it exists the source owns, from then on the destination.
  commit: { next: 'redirect', owner: 'source', recovery: 'undo' },
  redirect: { next: 'confirm', owner: 'destination', recovery: 'finish' },
  confirm: { next: 'done', owner: 'destination', recovery: 'finish' },
} as const satisfies Record<Phase, PhaseRow>;

/** True from the first phase in which a failure no longer goes back to the source. */
export function isCommitted(phase: Phase): boolean {
  return PHASE_TABLE[phase].recovery === 'finish';
}
