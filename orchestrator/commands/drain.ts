/** `osmosis drain` */
import { hostname, userInfo } from 'node:os';
import { type ErrorCode, EXIT_STATUS, OsmosisError } from '../../agent/error.ts';
import { checkAskable, isYes } from '../confirmation.ts';
import { drainText, placementText, recordText } from '../display/drain.ts';
import { type DrainProgress, drain } from '../drain/drain.ts';
import { type PlannedDrain, planDrain } from '../drain/plan.ts';
import { beginDrain, type DrainEnd, type DrainState, drainEnd, drainRows } from '../drain/state.ts';
import { type Fleet, findHost, loadFleet } from '../fleet/fleet.ts';
import { PARALLEL_MAX } from '../fleet/schema.ts';
import { parseSelector } from '../fleet/selector.ts';
import { parseDuration } from '../lease.ts';
import type { Legacy } from '../plan.ts';
import { syncRequest } from '../sync/sync.ts';
import { detach } from './detach.ts';
import { type HostOptions, interrupted, printJson, usingHosts, withHosts } from './hosts.ts';
import { moveAlone } from './mover.ts';

/** Moves at the same time, unless the operator says otherwise: a move keeps two processors and the link busy. */
const PARALLEL = 2;
export type DrainCommand = HostOptions & {
  readonly to?: string;
  readonly parallel?: number;
  readonly deadline?: string;
  readonly select?: string;
  readonly legacy?: Legacy;
  /** Copy what the other hosts lack of files. */
  readonly sync?: boolean;
  readonly reason?: string;
  readonly self?: boolean;
  readonly status?: boolean;
  readonly detach?: boolean;
  readonly dryRun: boolean;
  readonly yes: boolean;
  readonly json?: boolean;
};

/** As the command and the fleet file say together. */
type Limits = { readonly parallel: number; readonly deadlineMs: number | undefined; readonly legacy: Legacy };

export async function runDrain(named: string | undefined, options: DrainCommand): Promise<void> {
  const host = hostOf(named, options);
  if (options.status) return showStatus(host, options);
  const fleet = await loadFleet(options.fleet);
  const limits = limitsOf(options, fleet);
  const select = parseSelector(options.select ?? 'name');
  const to = destinationsOf(host, options, fleet);
  if (!options.dryRun) checkAskable(options);
  const touches = !options.dryRun && !options.detach;
  await withStop(async (stop, signal) => {
    await usingHosts(options, fleet, signal, async (hosts) => {
      const connect = async (name: string) => hosts.agent(await hosts.connect(name));
      const cordon = touches ? (options.reason ?? 'drain') : undefined;
      const { legacy } = limits;
      const { sync } = options;
      const plan = await planDrain({ host, to, select, legacy, sync, cordon, connect, signal });
      showPlan(host, options, plan);
      if (options.dryRun) return finishDryRun(host, options, plan);
      if (plan.cells.length > 0 && !(await isYes(options, 'Move them?'))) throw nobodySaidYes(host, touches);
      if (options.detach) return await detach(host, options, plan.source, stop.signal);
      const state = await execute(host, options, fleet, limits, plan, stop, signal);
      finish(host, options, state);
    });
  });
}

async function execute(
  host: string,
  options: DrainCommand,
  fleet: Fleet,
  { parallel, deadlineMs, legacy }: Limits,
  { source, cells, hosts }: PlannedDrain,
  stop: AbortController,
  signal: AbortSignal,
): Promise<DrainState> {
  const files = options.sync ? syncRequest([], false) : undefined;
  const started = Date.now();
  const deadline = deadlineMs === undefined ? {} : { deadline: started + deadlineMs };
  const timer = setTimeout(() => stop.abort('deadline'), deadlineMs ?? 0);
  if (deadlineMs === undefined) clearTimeout(timer);
  try {
    return await drain({
      state: beginDrain(cells, hosts, parallel),
      source,
      record: { by: drivenBy(), started, ...deadline },
      stop: stop.signal,
      emit: options.json ? printJson : (event) => void process.stdout.write(progressLine(event)),
      move: (target, to, emit) =>
        moveAlone(options, fleet, { target, from: host, to, legacy, files, signal, emit }),
    });
  } finally {
    clearTimeout(timer);
  }
}

/** For whoever looks at the host's record. */
export function drivenBy(): string {
  return `${userInfo().username}@${hostname()} (pid ${process.pid})`;
}

/** The first SIGINT or SIGTERM fires `stop`, the second one the signal; then they are the system's again. */
async function withStop(
  action: (stop: AbortController, signal: AbortSignal) => Promise<void>,
): Promise<void> {
  const [stop, abort] = [new AbortController(), new AbortController()];
  const onSignal = () => {
    const isSecond = stop.signal.aborted;
    stop.abort('stopped');
    if (isSecond) abort.abort(interrupted());
    const text = isSecond
      ? 'undoing what is not decided yet'
      : 'no move begins any more; those in flight end first (again: undo them)';
    process.stderr.write(`osmosis: ${text}\n`);
    if (isSecond) release();
  };
  const signals = ['SIGINT', 'SIGTERM'] as const;
  const release = () => {
    for (const signal of signals) process.off(signal, onSignal);
  };
  for (const signal of signals) process.on(signal, onSignal);
  try {
    await action(stop, abort.signal);
  } finally {
    release();
  }
}

function showPlan(host: string, options: DrainCommand, { placements, hosts }: PlannedDrain): void {
  const { placed, unplaced } = placements;
  if (!options.json) return void process.stdout.write(placementText(host, placements, hosts));
  printJson({
    event: 'plan',
    host,
    cells: [
      ...placed.map(({ cell, to, notes }) => ({ cell: cell.name, to, notes })),
      ...unplaced.map(({ cell, why }) => ({ cell: cell.name, to: null, why })),
    ],
  });
}

function nobodySaidYes(host: string, cordoned: boolean): OsmosisError {
  const left = cordoned ? ` ${host} stays cordoned: osmosis uncordon ${host}.` : '';
  return new OsmosisError('INTERRUPTED', `nobody said yes; nothing was moved.${left}`, { phase: 'plan' });
}

/** @throws OsmosisError USAGE */
function hostOf(named: string | undefined, { self = false }: DrainCommand): string {
  if (self !== (named === undefined))
    throw new OsmosisError('USAGE', 'name the host to drain, or say --self on it; nothing was touched');
  return named ?? 'local';
}

/** @throws OsmosisError USAGE */
export function limitsOf(options: DrainCommand, { drain: defaults }: Fleet): Limits {
  const parallel = options.parallel ?? defaults.parallel ?? PARALLEL;
  if (!Number.isInteger(parallel) || parallel < 1 || parallel > PARALLEL_MAX)
    throw new OsmosisError('USAGE', `--parallel is 1 to ${PARALLEL_MAX}; nothing was touched`);
  const deadline = options.deadline ?? defaults.deadline;
  return {
    parallel,
    deadlineMs: deadline === undefined ? undefined : parseDuration(deadline, '--deadline'),
    legacy: options.legacy ?? defaults.legacy ?? 'refuse',
  };
}

/** @throws OsmosisError USAGE */
function destinationsOf(host: string, { to }: DrainCommand, fleet: Fleet): string[] {
  const names =
    to === undefined ? fleet.hosts.map(({ name }) => name) : to.split(',').map((name) => name.trim());
  const others = [...new Set(names)].filter((name) => name !== host);
  if (others.length === 0)
    throw new OsmosisError(
      'USAGE',
      `there is nowhere to go: name hosts with --to HOST,… or a fleet file with --fleet; nothing was touched`,
    );
  for (const name of others) findHost(fleet, name);
  return others;
}

const CODES = {
  done: undefined,
  left: 'DRAIN_LEFT',
  deadline: 'DRAIN_DEADLINE',
  stopped: 'INTERRUPTED',
  refused: 'DRAIN_REFUSED',
} as const satisfies Record<DrainEnd, ErrorCode | undefined>;

function finish(host: string, options: DrainCommand, state: DrainState): void {
  const end = drainEnd(state);
  const code = setStatus(end);
  const rows = drainRows(state).map((row) => ({ ...row, from: host }));
  if (options.json) printJson({ ok: code === undefined, ...code, end, host, cells: rows });
  else process.stdout.write(drainText(host, end, rows));
}

function finishDryRun(host: string, options: DrainCommand, { cells, placements }: PlannedDrain): void {
  const { length: left } = placements.unplaced;
  const code = setStatus(left === 0 ? 'done' : left === cells.length ? 'refused' : 'left');
  if (options.json) printJson({ ok: code === undefined, ...code, dry_run: true, host });
}

function setStatus(end: DrainEnd): { readonly code: ErrorCode } | undefined {
  const code = CODES[end];
  if (code === undefined) return undefined;
  process.exitCode = EXIT_STATUS[code];
  return { code };
}

export function progressLine(event: DrainProgress): string {
  if (event.event !== 'move') return event.event === 'note' ? `${event.cell}: ${event.message}\n` : '';
  const what = { started: 'is moving', moved: 'has moved', failed: 'did not move' }[event.state];
  return `${event.cell} ${what} to ${event.to}${event.message === undefined ? '' : `: ${event.message}`}\n`;
}

async function showStatus(host: string, options: DrainCommand): Promise<void> {
  await withHosts(options, async (hosts, signal) => {
    const agent = await hosts.agent(await hosts.connect(host));
    const { cordon, cells } = await agent.call('status', {}, { signal });
    const names = cells.map(({ name }) => name);
    if (options.json) printJson({ ok: true, host, cordon: cordon ?? null, cells: names });
    else process.stdout.write(recordText(host, cordon, names));
  });
}
