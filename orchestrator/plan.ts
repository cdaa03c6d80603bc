/** The plan of one migration: what would move, to where, and whether it can. Nothing is touched by it. */

import { endpointText, type Flow, flowKey } from '../agent/address.ts';
import type { Publication, PublishSpec } from '../agent/cell/publication.ts';
import type { Check, PeerFact, Result, Snapshot } from '../agent/control/protocol.ts';
import { OsmosisError } from '../agent/error.ts';
import { sourceChecks } from '../agent/host/preflight.ts';
import type { AgentClient, CallOptions } from './agent-client.ts';
import type { SyncPlan } from './sync/plan.ts';
import type { FileSync } from './sync/sync.ts';

export type Plan = {
  readonly cell: string;
  readonly from: string;
  readonly to: string;
  readonly processes: readonly { pid: number; command: string; resident_bytes: number }[];
  /** The hosts at the other ends; without an agent it is a legacy peer. */
  readonly peers: readonly PeerFact[];
  /** Endpoints that the cell listens on, e.g. `tcp 10.0.0.1:6379`. */
  readonly listeners: readonly string[];
  /** The process uses its host's own network: that host can relay for peers without an agent. */
  readonly home: boolean;
  readonly image_bytes_estimate: number;
  /** New connections to its old endpoints would follow it. */
  readonly forward_new?: ForwardPlan;
  /** Endpoints of the destination at which anybody would reach it. */
  readonly publish?: readonly Publication[];
  /** Files that would be copied. */
  readonly sync?: SyncPlan;
  readonly checks: readonly Check[];
};

export type ForwardPlan = {
  /** Seconds; renewed for as long as the process lives at the destination. */
  readonly lease_s: number;
  /** E.g. `tcp 10.0.0.1:6379`. */
  readonly endpoints: readonly string[];
  /** By way of the source: connections of hosts without an agent, and without connections with the process. */
  readonly relays: boolean;
};

export type Planned = {
  readonly plan: Plan;
  readonly snapshot: Snapshot;
  /** Flows of unconnected UDP sockets whose peers know them. */
  readonly datagrams: readonly Flow[];
  /** The destination's own name. */
  readonly hostname?: string;
};

/** `learnMs`: how long such flows are learnt, in place of the agent's own choice. */
export type PlanOptions = CallOptions & {
  readonly learnMs?: number | undefined;
  /** New connections are to follow, for so many seconds at a time. */
  readonly forwardLeaseS?: number | undefined;
  /** Where the process is to be reachable at the destination. */
  readonly publish?: readonly PublishSpec[] | undefined;
  /** Copies what the destination lacks. */
  readonly files?: FileSync | undefined;
};

/** An answer takes this long at most besides the learning. */
const INSPECT_MS_MAX = 120_000;

export async function makePlan(
  target: string,
  name: string | undefined,
  source: AgentClient,
  destination: AgentClient,
  { learnMs, forwardLeaseS, publish = [], files, ...options }: PlanOptions,
): Promise<Planned> {
  const snapshot = await inspected(target, name, source, { learnMs, forwardLeaseS }, options);
  const [survey, preflight] = await Promise.all([
    source.call('survey', { cell: snapshot.cell, flows: snapshot.flows }, options),
    destination.call(
      'preflight',
      {
        snapshot,
        ...(publish.length === 0 ? {} : { publish: [...publish] }),
        ...(files === undefined ? {} : { sync: true }),
      },
      options,
    ),
  ]);
  const planned = plannedBetween(snapshot, survey, preflight, source, destination);
  if (files === undefined) return planned;
  const { plan: sync, checks } = await files.plan(snapshot, options);
  return { ...planned, plan: { ...planned.plan, sync, checks: [...planned.plan.checks, ...checks] } };
}

/** A cell as it is, and its peers; for plans of several destinations. */
export type Seen = { readonly snapshot: Snapshot; readonly survey: Result<'survey'> };

export async function see(target: string, source: AgentClient, options: CallOptions): Promise<Seen> {
  const snapshot = await inspected(target, undefined, source, {}, options);
  const survey = await source.call('survey', { cell: snapshot.cell, flows: snapshot.flows }, options);
  return { snapshot, survey };
}

/** `sync`: files are no matter, they will be copied. @throws OsmosisError SAME_HOST */
export async function makePlanOf(
  { snapshot, survey }: Seen,
  source: AgentClient,
  destination: AgentClient,
  { sync = false, ...options }: CallOptions & { readonly sync?: boolean },
): Promise<Plan> {
  const preflight = await destination.call('preflight', { snapshot, ...(sync && { sync }) }, options);
  return plannedBetween(snapshot, survey, preflight, source, destination).plan;
}

function plannedBetween(
  snapshot: Snapshot,
  { peers, unknown = [] }: Result<'survey'>,
  { host, checks, home: comesHome = false, published = [] }: Result<'preflight'>,
  source: AgentClient,
  destination: AgentClient,
): Planned {
  if (host.machine_id === snapshot.host.machine_id) {
    throw new OsmosisError(
      'SAME_HOST',
      `${source.host} and ${destination.host} are the same host; nothing was touched. Name another destination.`,
      { phase: 'plan' },
    );
  }
  const places = [source.host, destination.host] as const;
  const made = planned(snapshot, peers, unknown, checks, places, { comesHome, published });
  return { ...made, hostname: host.hostname };
}

/** The same for a suspension: its destination is a file. */
export async function makeSuspensionPlan(
  target: string,
  name: string | undefined,
  source: AgentClient,
  file: string,
  { learnMs, ...options }: PlanOptions,
): Promise<Planned> {
  const snapshot = await inspected(target, name, source, { learnMs }, options);
  const { peers, unknown = [] } = await source.call(
    'survey',
    { cell: snapshot.cell, flows: snapshot.flows, stays: true },
    options,
  );
  return planned(snapshot, peers, unknown, sourceChecks(snapshot), [source.host, file]);
}

async function inspected(
  target: string,
  name: string | undefined,
  source: AgentClient,
  { learnMs, forwardLeaseS }: Pick<PlanOptions, 'learnMs' | 'forwardLeaseS'>,
  options: CallOptions,
): Promise<Snapshot> {
  const learning =
    learnMs === undefined
      ? options
      : { ...options, timeoutMs: (options.timeoutMs ?? INSPECT_MS_MAX) + learnMs };
  return source.call(
    'inspect',
    {
      target,
      ...(name === undefined ? {} : { name }),
      ...(learnMs === undefined ? {} : { learn_ms: learnMs }),
      ...(forwardLeaseS === undefined ? {} : { forward_lease_s: forwardLeaseS }),
    },
    learning,
  );
}

type Arriving = { readonly comesHome?: boolean; readonly published?: readonly Publication[] };

function planned(
  snapshot: Snapshot,
  peers: Plan['peers'],
  unknown: readonly Flow[],
  checks: readonly Check[],
  [from, to]: readonly [string, string],
  { comesHome = false, published = [] }: Arriving = {},
): Planned {
  const plan: Plan = {
    cell: snapshot.name,
    from,
    to,
    processes: snapshot.processes.map(({ pid, command, resident_bytes }) => ({
      pid,
      command,
      resident_bytes,
    })),
    peers,
    listeners: snapshot.listeners.map((listener) => `${listener.protocol} ${endpointText(listener)}`),
    home: snapshot.home,
    image_bytes_estimate: snapshot.image_bytes,
    ...forwardPlan(snapshot, comesHome),
    ...(published.length === 0 ? {} : { publish: published }),
    checks: [...snapshot.checks, ...checks, ...outsideChecks(snapshot), ...homeChecks(snapshot, comesHome)],
  };
  const strange = new Set(unknown.map(flowKey));
  // Connected sockets are found anew when the move begins.
  const datagrams = snapshot.flows.filter((flow) => flow.protocol === 'udp' && !strange.has(flowKey(flow)));
  return { plan, snapshot, datagrams };
}

function forwardPlan({ forwarding }: Snapshot, comesHome: boolean): Pick<Plan, 'forward_new'> {
  if (forwarding === undefined || comesHome) return {};
  const { lease_s, endpoints, homes } = forwarding;
  const names = endpoints.map((each) => `${each.protocol} ${endpointText(each)}`);
  return { forward_new: { lease_s, endpoints: names, relays: homes.length > 0 } };
}

function homeChecks({ forwarding }: Snapshot, comesHome: boolean): Check[] {
  const message = 'it comes home: new connections reach it there as they are, and need not follow';
  return forwarding !== undefined && comesHome ? [{ name: 'forward-new', ok: true, message }] : [];
}

/** Not in the way of a move, but the operator should know. */
function outsideChecks(snapshot: Snapshot): Check[] {
  return snapshot.outside.map(({ what }) => ({
    name: 'descriptors',
    ok: true,
    message: `${what} has its other end outside: it becomes /dev/null`,
  }));
}

/** What becomes of connections whose peers run no agent: nothing moves, they end, or the source carries them on. */
export type Legacy = 'refuse' | 'drop' | 'relay';

/** @throws OsmosisError PREFLIGHT with every failed check, LEGACY_PEERS; both before anything is touched. */
export function checkPlan(plan: Plan, how: Legacy): void {
  refuseFailed(plan.checks, 'moved');
  const { home } = plan;
  const legacy = legacyText(plan);
  if (legacy !== undefined && (how === 'refuse' || (how === 'relay' && !home))) {
    const remedy = home
      ? 'let the source carry their connections on with --relay-legacy, or drop them with --drop-legacy'
      : 'drop their connections with --drop-legacy (only the host that they were made with can carry them on)';
    throw new OsmosisError(
      'LEGACY_PEERS',
      `these peers run no agent, or it does not answer: ${legacy}. Nothing was touched. Start an agent there, or ${remedy}.`,
      { phase: 'plan' },
    );
  }
}

/** @throws OsmosisError as checkPlan. */
export function checkSuspensionPlan(plan: Plan, how: Exclude<Legacy, 'relay'>): void {
  refuseFailed(plan.checks, 'suspended');
  const legacy = legacyText(plan);
  if (legacy === undefined || how === 'drop') return;
  throw new OsmosisError(
    'LEGACY_PEERS',
    `these peers run no agent, or it does not answer: ${legacy}. Nothing there can wait for the process, and their connections would end. ` +
      'Nothing was touched. Start an agent there, or let them end with --drop-legacy.',
    { phase: 'plan' },
  );
}

export function refuseFailed(checks: readonly Check[], verb: 'moved' | 'suspended' | 'resumed'): void {
  const failed = checks.filter(({ ok }) => !ok);
  if (failed.length === 0) return;
  const list = failed.map(({ name, message }) => `${name}: ${message}`).join('; ');
  throw new OsmosisError('PREFLIGHT', `it can't be ${verb}: ${list}. Nothing was touched.`, {
    phase: 'plan',
  });
}

function legacyText({ peers }: Plan): string | undefined {
  const legacy = peers.filter(({ agent }) => !agent);
  if (legacy.length === 0) return undefined;
  return legacy.map(({ address, flows }) => `${address} (${flows} flows)`).join(', ');
}
