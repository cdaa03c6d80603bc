/** `osmosis migrate` */
import { LEARN_MS_MAX } from '../../agent/control/migration-protocol.ts';
import { EXIT_STATUS, OsmosisError } from '../../agent/error.ts';
import { PHASES, USUAL_PHASES } from '../../agent/phases.ts';
import { displayed } from '../display/display.ts';
import { planText } from '../display/plan.ts';
import { resultText } from '../display/result.ts';
import { parseLease } from '../lease.ts';
import { type Host, type MigrationOptions, migrate } from '../migrate.ts';
import { checkPlan, type Legacy, makePlan } from '../plan.ts';
import { publishSpec } from '../publish-spec.ts';
import { FileSync, type SyncChannels, type SyncRequest, syncRequest } from '../sync/sync.ts';
import { type HostOptions, type Hosts, printJson, withHosts } from './hosts.ts';

export type MigrateOptions = HostOptions & {
  readonly from: string;
  readonly to: string;
  readonly name?: string;
  readonly dropLegacy?: boolean;
  readonly relayLegacy?: boolean;
  readonly dryRun: boolean;
  /** A lease, or none given: the usual one. */
  readonly forwardNew?: string | true;
  /** Seconds. */
  readonly learn?: number;
  readonly publish?: readonly string[];
  readonly sync?: boolean;
  readonly syncPath?: readonly string[];
  readonly force?: boolean;
  readonly json?: boolean;
};

export async function runMigrate(target: string, options: MigrateOptions): Promise<void> {
  if (options.from === options.to) {
    throw new OsmosisError(
      'SAME_HOST',
      `--from and --to are both ${options.from}; nothing was touched. Name another destination.`,
      { phase: 'plan' },
    );
  }
  forwardLeaseOf(options);
  const request = syncRequestOf(options);
  await withHosts(options, async (hosts, signal) => {
    const [source, destination] = await Promise.all([
      openHost(hosts, options.from),
      openHost(hosts, options.to),
    ]);
    const sync = request && { request, channels: await openChannels(hosts, options) };
    if (options.dryRun) return dryRun(target, options, { source, destination, sync }, signal);
    const json = options.json ?? false;
    const phases = sync === undefined ? USUAL_PHASES : PHASES;
    const name = options.name === undefined ? {} : { name: options.name };
    const result = await displayed({ json, phases }, (emit) =>
      migrate({
        target,
        ...name,
        legacy: legacyOf(options),
        learnMs: learnMsOf(options),
        forwardLeaseS: forwardLeaseOf(options),
        publish: options.publish?.map(publishSpec),
        ...{ sync, source, destination, signal, emit },
      }),
    );
    if (json) printJson(result);
    else process.stdout.write(resultText(result));
    if (result.unconfirmed.length > 0) process.exitCode = EXIT_STATUS.UNCONFIRMED;
  });
}

export async function openHost(hosts: Hosts, name: string): Promise<Host> {
  const connection = await hosts.connect(name);
  const [control, image] = await Promise.all([hosts.agent(connection), hosts.agent(connection)]);
  return { control, image };
}

export async function openChannels(
  hosts: Hosts,
  { from, to }: { readonly from: string; readonly to: string },
): Promise<SyncChannels> {
  const open = async (name: string) => await hosts.agent(await hosts.connect(name));
  const [source, destination] = await Promise.all([open(from), open(to)]);
  return { from: source, to: destination };
}

/** @throws OsmosisError USAGE */
function syncRequestOf({
  sync = false,
  syncPath = [],
  force = false,
}: MigrateOptions): SyncRequest | undefined {
  if (sync || syncPath.length > 0) return syncRequest(syncPath, force);
  if (force) throw new OsmosisError('USAGE', '--force is for --sync; nothing was touched');
  return undefined;
}

async function dryRun(
  target: string,
  options: MigrateOptions,
  { source, destination, sync }: Pick<MigrationOptions, 'source' | 'destination' | 'sync'>,
  signal: AbortSignal,
): Promise<void> {
  const agents = { source: source.control, destination: destination.control };
  const files = sync && new FileSync(sync.request, { ...agents, channels: sync.channels }, () => undefined);
  const { plan } = await makePlan(target, options.name, source.control, destination.control, {
    signal,
    learnMs: learnMsOf(options),
    forwardLeaseS: forwardLeaseOf(options),
    publish: options.publish?.map(publishSpec),
    files,
  });
  if (options.json) printJson({ ok: true, dry_run: true, plan });
  else process.stdout.write(planText(plan));
  checkPlan(plan, legacyOf(options));
}

/** @throws OsmosisError USAGE */
export function learnMsOf({ learn }: Pick<MigrateOptions, 'learn'>): number | undefined {
  if (learn === undefined) return undefined;
  const ms = Math.round(learn * 1_000);
  if (ms >= 0 && ms <= LEARN_MS_MAX) return ms;
  throw new OsmosisError('USAGE', `--learn is 0 to ${LEARN_MS_MAX / 1_000} seconds`);
}

/** @throws OsmosisError USAGE */
function forwardLeaseOf({ forwardNew }: MigrateOptions): number | undefined {
  return forwardNew === undefined ? undefined : parseLease(forwardNew, '--forward-new');
}

function legacyOf({ dropLegacy, relayLegacy }: MigrateOptions): Legacy {
  return dropLegacy ? 'drop' : relayLegacy ? 'relay' : 'refuse';
}
