/** What becomes of each file that a process needs where it goes: pure. Nothing that differs is replaced unasked. */
import type { Check, Result } from '../../agent/control/protocol.ts';
import type { SyncFact, SyncFound } from '../../agent/control/sync-protocol.ts';
import { isSystemPath } from '../../agent/sync/paths.ts';
import { some } from '../../agent/sync/some.ts';
import { bytesText, countText } from '../display/format.ts';

/** `same`: there already. `leave`: not copied, whatever it is. */
export type SyncState = 'copy' | 'replace' | 'remove' | 'same' | 'leave' | 'refused';

export type SyncRow = {
  readonly path: string;
  readonly type: SyncFact['type'];
  readonly state: SyncState;
  readonly bytes: number;
  /** Why it is refused. */
  readonly why?: Refusal;
};

export type SyncPlan = {
  readonly copy: { readonly files: number; readonly bytes: number };
  readonly replace: { readonly files: number; readonly bytes: number };
  /** Only at the destination, in a directory that is copied. */
  readonly remove: number;
  readonly same: number;
  /** All but those that are there and the same, and at most ROWS_TOLD_MAX of them. */
  readonly files: readonly Pick<SyncRow, 'path' | 'state' | 'bytes'>[];
};

export type PlannedSync = {
  readonly plan: SyncPlan;
  readonly checks: readonly Check[];
  readonly rows: readonly SyncRow[];
};

export type Comparison = Omit<Result<'sync.compare'>, 'extra'> & {
  readonly facts: readonly SyncFact[];
  /** Of the source, by path; where the destination has told its own. */
  readonly hashes: ReadonlyMap<string, string | null>;
  readonly extra: readonly string[];
  readonly notes: readonly string[];
  readonly sourceProblems: readonly string[];
  readonly force: boolean;
};

const REFUSALS = {
  differs: 'the destination has something else at',
  kind: 'the destination has something of another kind at',
  system: 'the destination has another size, build or mode of what belongs to the operating system:',
  mode: 'the destination has another mode of the directory',
  shared: 'not copied, as hosts share its file system, and not there:',
  blocked: 'nothing can be put at',
} as const;
const REMEDIES: { readonly [why in Refusal]: string } = {
  differs: 'compare them; --force replaces them, and puts them back if the move is undone',
  kind: 'move that away first',
  system: 'never replaced: bring both hosts to the same version of its package',
  mode: 'chmod it there',
  shared: 'mount that there first',
  blocked: 'see the reason of each',
};
type Refusal = keyof typeof REFUSALS;

const ROWS_TOLD_MAX = 1_000;
/** A file system is never filled up to the last byte. */
const SPARE_BYTES = 64 * 1024 * 1024;

export function planSync(comparison: Comparison): PlannedSync {
  const { facts, found, problems, extra, force } = comparison;
  const blocked = new Map(problems.map(({ path, problem }) => [path, problem]));
  const rows = facts.map((fact, at) =>
    blocked.has(fact.path) ? refuse(fact, 'blocked') : rowOf(fact, found[at] ?? undefined, comparison),
  );
  const removed: SyncRow[] = (force ? extra : []).map((path) => ({
    path,
    type: 'file',
    state: 'remove',
    bytes: 0,
  }));
  const all = [...rows, ...removed];
  const plan = { ...summary(all), files: told(all) };
  const checks = [
    ...comparison.sourceProblems.map(bad),
    ...refusalChecks(rows, blocked),
    ...roomChecks(rows, comparison),
    ...(extra.length > 0 ? [extraCheck(extra, force)] : []),
    ...comparison.notes.map(good),
  ];
  return {
    plan,
    checks: checks.some(({ ok }) => !ok) ? checks : [good(summaryText(plan)), ...checks],
    rows: all,
  };
}

function rowOf(fact: SyncFact, here: SyncFound | undefined, { hashes, force }: Comparison): SyncRow {
  const row = (state: SyncState) => ({ path: fact.path, type: fact.type, state, bytes: bytesOf(fact) });
  if (fact.shared)
    return here?.type === 'file' && here.size === fact.size ? row('leave') : refuse(fact, 'shared');
  if (here === undefined) return row('copy');
  if (fact.type === 'directory') {
    if (here.type !== 'directory') return refuse(fact, 'kind');
    return fact.why === 'directory' && here.mode !== fact.mode ? refuse(fact, 'mode') : row('same');
  }
  if (here.type === 'directory' || here.type === 'other') return refuse(fact, 'kind');
  if (isSame(fact, here, hashes.get(fact.path))) return row(here.hash === undefined ? 'leave' : 'same');
  if (isSystemPath(fact.path)) return refuse(fact, 'system');
  return force ? row('replace') : refuse(fact, 'differs');
}

/** CRIU takes no file of another size, build or mode; whoever reads one takes no other content. */
function isSame(fact: SyncFact, here: SyncFound, hash: string | null | undefined): boolean {
  if (fact.type !== here.type) return false;
  if (fact.type === 'symlink') return fact.target === here.target;
  if (fact.size !== here.size || fact.mode !== here.mode || fact.build_id !== here.build_id) return false;
  if (isSystemPath(fact.path)) return true;
  if (fact.uid !== here.uid || fact.gid !== here.gid) return false;
  return here.hash === undefined ? fact.build_id !== undefined : here.hash === hash;
}

function refuse({ path, type }: SyncFact, why: Refusal): SyncRow {
  return { path, type, state: 'refused', bytes: 0, why };
}

/** Holes are not copied. */
function bytesOf({ type, size, allocated }: SyncFact): number {
  return type === 'file' ? Math.min(size, Math.max(allocated, 0)) : 0;
}

function summary(rows: readonly SyncRow[]): Omit<SyncPlan, 'files'> {
  const of = (state: SyncState) => {
    const its = rows.filter((row) => row.state === state && row.type !== 'directory');
    return { files: its.length, bytes: its.reduce((sum, { bytes }) => sum + bytes, 0) };
  };
  return {
    copy: of('copy'),
    replace: of('replace'),
    remove: of('remove').files,
    same: of('same').files + of('leave').files,
  };
}

function summaryText({ copy, replace, remove, same }: SyncPlan): string {
  const parts = [
    `${countText(copy.files, 'file')} (${bytesText(copy.bytes)}) to copy`,
    ...(replace.files > 0 ? [`${replace.files} (${bytesText(replace.bytes)}) to replace`] : []),
    ...(remove > 0 ? [`${remove} to remove`] : []),
    `${same} there already`,
  ];
  return parts.join(', ');
}

function told(rows: readonly SyncRow[]): SyncPlan['files'] {
  return rows
    .filter(({ state }) => state !== 'same' && state !== 'leave')
    .slice(0, ROWS_TOLD_MAX)
    .map(({ path, type, state, bytes }) => ({
      path: type === 'directory' ? `${path}/` : path,
      state,
      bytes,
    }));
}

function refusalChecks(rows: readonly SyncRow[], blocked: ReadonlyMap<string, string>): Check[] {
  const byWhy = Map.groupBy(
    rows.filter(({ why }) => why !== undefined),
    ({ why }) => why ?? 'differs',
  );
  return [...byWhy].map(([why, its]) => {
    const names = its.map(({ path }) => (why === 'blocked' ? `${path} (${blocked.get(path)})` : path));
    return bad(`${REFUSALS[why]} ${some(names)}; ${REMEDIES[why]}`);
  });
}

function roomChecks(rows: readonly SyncRow[], { facts, places, rooms }: Comparison): Check[] {
  const needed = rooms.map(() => 0);
  for (const [at, { writable = false }] of facts.entries()) {
    const row = rows[at];
    const place = places[at] ?? 0;
    // What the process writes to is copied there before it is written to.
    const isWritten =
      row?.state === 'copy' || row?.state === 'replace' || (row?.state === 'same' && writable);
    if (isWritten) needed[place] = (needed[place] ?? 0) + (row?.bytes ?? 0);
  }
  return rooms.flatMap(({ path, free_bytes }, place) => {
    const bytes = needed[place] ?? 0;
    if (bytes === 0 || free_bytes >= bytes + SPARE_BYTES) return [];
    return [
      bad(
        `the file system of ${path} at the destination has ${bytesText(free_bytes)} free, ${bytesText(bytes + SPARE_BYTES)} are needed; make room there`,
      ),
    ];
  });
}

function extraCheck(extra: readonly string[], force: boolean): Check {
  return good(
    force
      ? `only at the destination, and removed once the process has moved (--force): ${some(extra)}`
      : `only at the destination, and left there: ${some(extra)}`,
  );
}

function good(message: string): Check {
  return { name: 'files', ok: true, message };
}

function bad(message: string): Check {
  return { name: 'files', ok: false, message };
}
