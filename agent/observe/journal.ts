/**
 * What becomes of each migration on this host: a line of the log when it begins, when it is prepared, frozen, restored, and one
 * when it has ended, with how long each step took; and the same for the metrics.
 */
import type { Logger } from 'pino';
import { type ErrorCode, isErrorCode } from '../error.ts';
import type { Phase } from '../phases.ts';

export const ROLES = ['source', 'destination'] as const;
export type Role = (typeof ROLES)[number];
/** `suspend` and `resume` have one host each, a move has two. */
const KINDS = ['move', 'suspend', 'resume'] as const;
export type Kind = (typeof KINDS)[number];
/** `refused`: it never began here, and nothing was touched. `undone`: the process goes on where it was. */
const OUTCOMES = ['committed', 'undone', 'refused'] as const;
export type Outcome = (typeof OUTCOMES)[number];
/** `arm`: the peers are told; `image`: it is read or written, beside `freeze`. */
const STEPS = ['prepare', 'arm', 'freeze', 'image', 'restore', 'commit', 'redirect', 'confirm'] as const;
export type Step = (typeof STEPS)[number];

export type Ended = {
  readonly role: Role;
  readonly kind: Kind;
  readonly outcome: Outcome;
  /** The first failure on this host; undefined where the other side, or the orchestrator, has ended it. */
  readonly code: ErrorCode | undefined;
};

/** Who counts. Durations in seconds. */
export type Tally = {
  ended(what: Ended): void;
  step(role: Role, step: Step, seconds: number): void;
  /** The source: from the freeze until the decision, or until the process went on in place. */
  frozen(outcome: Outcome, seconds: number): void;
  /** The destination: from the whole image until the process ran. */
  woken(seconds: number): void;
  /** The destination: from MOVE until a peer has acknowledged it. */
  turned(seconds: number): void;
  image(role: Role, bytes: number): void;
};

export type Begun = {
  /** Its name on this host. */
  readonly cell: string;
  readonly cell_id: string;
  readonly kind: Kind;
  readonly flows?: number;
  /** The agent before this one had begun it. */
  readonly recovered?: boolean;
};

type Entry = Pick<Begun, 'cell' | 'cell_id'> & {
  readonly role: Role;
  readonly begun: number;
  /** Steps under way, since when. */
  readonly running: Map<Step, number>;
  readonly took: Map<Step, number>;
  kind: Kind;
  frozenAt?: number;
  frozen_ms?: number;
  restoringAt?: number;
  code?: ErrorCode;
  error?: string;
};

/** More than there can be migrations: should one never be ended, it goes when this is reached. */
const ENTRIES_MAX = 256;

export class Journal {
  readonly #log: Logger;
  readonly #tally: Tally;
  readonly #entries = new Map<string, Entry>();

  constructor(log: Logger, tally: Tally) {
    this.#log = log;
    this.#tally = tally;
  }

  /** How many are under way on this host. */
  active(role: Role): number {
    return [...this.#entries.values()].filter((entry) => entry.role === role).length;
  }

  begin(role: Role, migration: string, { cell, cell_id, kind, flows, recovered }: Begun): void {
    const oldest = this.#entries.keys().next().value;
    if (this.#entries.size >= ENTRIES_MAX && oldest !== undefined) this.#entries.delete(oldest);
    const begun = performance.now();
    // What begins it is its first step.
    const running = new Map<Step, number>(recovered ? [] : [['prepare', begun]]);
    const entry = { role, cell, cell_id, kind, begun, running, took: new Map() };
    this.#entries.set(keyOf(role, migration), entry);
    const text = recovered ? 'goes on with what the last agent had begun' : BEGINS[`${role} ${kind}`];
    const phase = recovered ? undefined : 'prepare';
    this.#log.info({ role, phase, cell, flows, cell_id, migration }, text);
  }

  /** A step begins; several of one name add up. */
  started(role: Role, migration: string, step: Step): void {
    const entry = this.#entries.get(keyOf(role, migration));
    if (entry === undefined) return;
    const now = performance.now();
    entry.running.set(step, now);
    if (step === 'restore') entry.restoringAt = now;
    if (step === 'freeze') entry.frozenAt = now;
  }

  /** It goes into a file: known only once it has begun. */
  suspends(migration: string): void {
    const entry = this.#entries.get(keyOf('source', migration));
    if (entry !== undefined) entry.kind = 'suspend';
  }

  /** `said`: the line of the log, where the end of this step is worth one. */
  done(
    role: Role,
    migration: string,
    step: Step,
    said?: { text: string; phase: Phase; more?: object },
  ): void {
    const entry = this.#entries.get(keyOf(role, migration));
    if (entry === undefined) return;
    const ms = stop(entry, step);
    if (role === 'source' && step === 'commit') this.#thaw(entry, 'committed');
    if (step === 'redirect' && entry.restoringAt !== undefined)
      this.#tally.woken((performance.now() - entry.restoringAt) / 1_000);
    if (said === undefined) return;
    const { cell, cell_id } = entry;
    const fields = { role, phase: said.phase, cell, ms: rounded(ms), ...said.more, cell_id, migration };
    this.#log.info(fields, said.text);
  }

  turned(ms: readonly number[]): void {
    for (const each of ms) this.#tally.turned(each / 1_000);
  }

  image(role: Role, bytes: number): void {
    this.#tally.image(role, bytes);
  }

  /** The first failure is the cause, the others follow from it. `kind`: for one that never began. */
  failed(
    role: Role,
    migration: string,
    { kind, step, phase, code, error }: { kind: Kind; step: Step; phase: Phase; code: string; error: string },
  ): void {
    const known = isErrorCode(code) ? code : 'INTERNAL';
    const entry = this.#entries.get(keyOf(role, migration));
    if (entry === undefined) {
      if (step === 'prepare') this.#tally.ended({ role, kind, outcome: 'refused', code: known });
      this.#log.warn({ role, phase, code: known, error, migration }, 'refused: nothing was touched here');
      return;
    }
    stop(entry, step);
    entry.code ??= known;
    entry.error ??= error;
    const { cell, cell_id } = entry;
    this.#log.warn({ role, phase, cell, code: known, error, cell_id, migration }, `${step} has failed`);
  }

  ended(role: Role, migration: string, outcome: 'committed' | 'undone'): void {
    const key = keyOf(role, migration);
    const entry = this.#entries.get(key);
    if (entry === undefined) return;
    this.#entries.delete(key);
    for (const step of entry.running.keys()) stop(entry, step);
    this.#thaw(entry, outcome);
    const { kind, cell, cell_id, code, error, took, frozen_ms, begun } = entry;
    this.#tally.ended({ role, kind, outcome, code });
    for (const [step, ms] of took) this.#tally.step(role, step, ms / 1_000);
    const times = Object.fromEntries([...took].map(([step, ms]) => [`${step}_ms`, rounded(ms)]));
    const stood = frozen_ms === undefined ? {} : { frozen_ms: rounded(frozen_ms) };
    const total = { ...stood, total_ms: rounded(performance.now() - begun) };
    const fields = { role, kind, cell, code, error, ...times, ...total, cell_id, migration };
    if (outcome === 'committed') this.#log.info(fields, ENDS[`${role} ${kind}`].committed);
    else this.#log.warn(fields, ENDS[`${role} ${kind}`].undone);
  }

  #thaw(entry: Entry, outcome: Outcome): void {
    if (entry.frozenAt === undefined || entry.frozen_ms !== undefined) return;
    entry.frozen_ms = performance.now() - entry.frozenAt;
    this.#tally.frozen(outcome, entry.frozen_ms / 1_000);
  }
}

const BEGINS: Record<`${Role} ${Kind}`, string> = {
  'source move': 'a cell is to leave',
  'source suspend': 'a cell is to be suspended',
  'source resume': 'a cell is to leave',
  'destination move': 'a cell is to move in',
  'destination suspend': 'a cell is to move in',
  'destination resume': 'a cell is to be resumed',
};

const MOVE_ENDS = {
  committed: 'has moved away: nothing of it is left here',
  undone: 'the move was undone: the process goes on here',
};
const ARRIVAL_ENDS = {
  committed: 'has moved in: it is a cell of this host',
  undone: 'the move was undone: nothing of it is left here',
};
const ENDS: Record<`${Role} ${Kind}`, { readonly committed: string; readonly undone: string }> = {
  'source move': MOVE_ENDS,
  'source resume': MOVE_ENDS,
  'source suspend': {
    committed: 'is suspended: its file has the process',
    undone: 'the suspension was undone: the process goes on here',
  },
  'destination move': ARRIVAL_ENDS,
  'destination suspend': ARRIVAL_ENDS,
  'destination resume': {
    committed: 'is resumed: it is a cell of this host',
    undone: 'the resumption was undone: its file has the process, as before',
  },
};

/** @returns how long this step took now, in ms */
function stop(entry: Entry, step: Step): number {
  const since = entry.running.get(step);
  if (since === undefined) return 0;
  entry.running.delete(step);
  const ms = performance.now() - since;
  entry.took.set(step, (entry.took.get(step) ?? 0) + ms);
  return ms;
}

function keyOf(role: Role, migration: string): string {
  return `${role} ${migration}`;
}

function rounded(ms: number): number {
  return Math.round(ms * 10) / 10;
}
