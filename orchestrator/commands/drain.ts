/** `osmosis drain` */
import { hostname, userInfo } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import type { CordonRecord } from '../../agent/control/drain-protocol.ts';
import { OsmosisError } from '../../agent/error.ts';
import type { AgentClient } from '../agent-client.ts';
import { drainText, placementText, recordText } from '../display/drain.ts';
import { type DrainProgress, drain } from '../drain/drain.ts';
import { placeCells } from '../drain/placement.ts';
import { beginDrain, drainEnd, drainRows } from '../drain/state.ts';
import { type Candidate, survey } from '../drain/survey.ts';
import { type Fleet, findHost, loadFleet } from '../fleet/fleet.ts';
import { PARALLEL_MAX } from '../fleet/schema.ts';
import { parseSelector } from '../fleet/selector.ts';
import { parseDuration } from '../lease.ts';
import { migrate } from '../migrate.ts';
import type { Legacy } from '../plan.ts';
import { checkAskable, isYes } from './confirm.ts';
import { detach } from './detach.ts';
import { type HostOptions, Hosts, printJson, withHosts } from './hosts.ts';
import { openHost } from './migrate.ts';

/** Moves at the same time, unless the operator says otherwise: a move keeps two processors and the link busy. */
const PARALLEL = 2;
/** A drain whose record is older than this has lost whoever drove it. */
const STALE_MS = 45_000;

export type DrainCommand = HostOptions & {
  readonly to?: string;
  readonly parallel?: number;
  readonly deadline?: string;
  readonly select?: string;
  readonly legacy?: Legacy;
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
  const names = destinationsOf(host, options, fleet);
  if (!options.dryRun) checkAskable(options);
  const stop = new AbortController();
  const abort = new AbortController();
  const onSignal = () => {
    if (stop.signal.aborted) abort.abort();
    stop.abort('stopped');
    process.stderr.write('osmosis: no move begins any more; those in flight end first (again: undo them)\n');
  };
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, onSignal);
  const hosts = new Hosts(options, fleet, abort.signal);
  try {
    const source = await hosts.agent(await hosts.connect(host));
    const { cordon: before, host: facts } = await source.call('status', {}, { signal: abort.signal });
    refuseSecond(host, before);
    const candidates = await reach(names, hosts, facts.machine_id, abort.signal);
    if (!options.dryRun && !options.detach)
      await source.call('cordon', { dry_run: false, reason: options.reason ?? 'drain' });
    const found = await survey(source, candidates, { select, legacy: limits.legacy, signal: abort.signal });
    const plan = placeCells(found.cells, found.hosts);
    const say = (text: string) => void (options.json ? undefined : process.stdout.write(text));
    if (options.json)
      printJson({
        event: 'plan',
        host,
        cells: [
          ...plan.placed.map(({ cell, to, notes }) => ({ cell: cell.name, to, notes })),
          ...plan.unplaced.map(({ cell, why }) => ({ cell: cell.name, to: null, why })),
        ],
      });
    say(placementText(host, plan, found.hosts));
    const state = beginDrain(found.cells, found.hosts, limits.parallel);
    if (options.dryRun) return finish(host, options, state, { dryRun: true, unplaced: plan.unplaced.length });
    if (found.cells.length > 0 && !(await isYes(options, 'Move them?'))) {
      say(`Nothing was moved; ${host} stays cordoned: osmosis uncordon ${host}.\n`);
      throw new OsmosisError('INTERRUPTED', 'nobody said yes; nothing was moved', { phase: 'plan' });
    }
    if (options.detach) return await detach(host, options, source);
    const record = {
      by: `${userInfo().username}@${hostname()} (pid ${process.pid})`,
      started: Date.now(),
      ...(limits.deadlineMs === undefined ? {} : { deadline: Date.now() + limits.deadlineMs }),
    };
    if (limits.deadlineMs !== undefined)
      void sleep(limits.deadlineMs, undefined, { ref: false }).then(() => stop.abort('deadline'));
    const ended = await drain({
      state,
      source,
      record,
      stop: stop.signal,
      emit: options.json ? printJson : (event) => say(progressLine(event)),
      move: async (cell, to, emit) => {
        // Its own connections: sshd allows ten channels on one.
        const pair = new Hosts(options, fleet, abort.signal);
        try {
          const [from, onto] = await Promise.all([openHost(pair, host), openHost(pair, to)]);
          return await migrate({
            target: cell,
            legacy: limits.legacy,
            source: from,
            destination: onto,
            signal: abort.signal,
            emit,
          });
        } finally {
          await pair.close();
        }
      },
    });
    finish(host, options, ended, { dryRun: false, unplaced: 0 });
  } finally {
    for (const signal of ['SIGINT', 'SIGTERM'] as const) process.off(signal, onSignal);
    stop.abort('stopped');
    await hosts.close();
  }
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

function refuseSecond(host: string, cordon: CordonRecord | undefined): void {
  const { state, updated, by } = cordon?.drain ?? {};
  if (state !== 'running' || updated === undefined || Date.now() - updated > STALE_MS) return;
  throw new OsmosisError(
    'BUSY',
    `${host} is being drained already by ${by}, seen ${new Date(updated).toISOString()}; nothing was touched. See osmosis drain --status ${host}.`,
    { phase: 'plan' },
  );
}

/** One that can't be reached takes nothing, and is no reason to stop. The host itself is left out. */
async function reach(
  names: readonly string[],
  hosts: Hosts,
  self: string,
  signal: AbortSignal,
): Promise<Candidate[]> {
  const found = await Promise.all(
    names.map(async (name): Promise<Candidate | undefined> => {
      try {
        const agent: AgentClient = await hosts.agent(await hosts.connect(name));
        const { host } = await agent.call('status', {}, { signal });
        return host.machine_id === self ? undefined : { name, agent };
      } catch (thrown) {
        if (signal.aborted) throw thrown;
        return { name, agent: undefined, closed: thrown instanceof Error ? thrown.message : String(thrown) };
      }
    }),
  );
  return found.filter((candidate) => candidate !== undefined);
}

const CODES = {
  done: undefined,
  left: 'DRAIN_LEFT',
  deadline: 'DRAIN_DEADLINE',
  stopped: 'INTERRUPTED',
  refused: 'DRAIN_REFUSED',
} as const;

function finish(
  host: string,
  options: DrainCommand,
  state: ReturnType<typeof beginDrain>,
  { dryRun, unplaced }: { dryRun: boolean; unplaced: number },
): void {
  const none = state.cells.length > 0 && unplaced === state.cells.length;
  const end = dryRun ? (unplaced === 0 ? 'done' : none ? 'refused' : 'left') : drainEnd(state);
  const code = CODES[end];
  if (code !== undefined) process.exitCode = new OsmosisError(code, '').exitStatus;
  const rows = drainRows(state).map((row) => ({ ...row, from: host }));
  if (options.json)
    printJson({
      ok: code === undefined,
      ...(code === undefined ? {} : { code }),
      ...(dryRun ? { dry_run: true } : { end, cells: rows }),
      host,
    });
  else if (!dryRun) process.stdout.write(drainText(host, end, rows));
}

function progressLine(event: DrainProgress): string {
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
