/** `osmosis doctor` */
import { EXIT_STATUS, OsmosisError } from '../../agent/error.ts';
import { clockFinding } from '../doctor/clock.ts';
import { askWays, type Examined, examine } from '../doctor/examine.ts';
import { hasFailed } from '../doctor/finding.ts';
import { type Between, reportText } from '../doctor/report.ts';
import { ways } from '../doctor/ways.ts';
import { type HostOptions, type Hosts, printJson, withHosts } from './hosts.ts';

export type DoctorOptions = HostOptions & { readonly all?: boolean; readonly json?: boolean };

export async function runDoctor(named: readonly string[], options: DoctorOptions): Promise<void> {
  await withHosts(options, async (hosts, signal) => {
    const names = options.all ? allOf(hosts) : named.length > 0 ? named : ['local'];
    const examined = await Promise.all([...new Set(names)].map((name) => examine(hosts, name, signal)));
    const between = examined.length > 1 ? await lookBetween(examined, signal) : undefined;
    const reports = examined.map(({ host, findings, skew }) => {
      const clock = between === undefined && skew !== undefined ? [clockFinding([{ host, skew }])] : [];
      return { host, findings: [...findings, ...clock] };
    });
    const isFit = !reports.some(({ findings }) => hasFailed(findings)) && !hasFailed(between?.reach ?? []);
    if (options.json)
      printJson({
        ok: isFit,
        hosts: reports.map(({ host, findings }) => ({ host, ok: !hasFailed(findings), findings })),
        ...(between === undefined ? {} : { between }),
      });
    else process.stdout.write(reportText(reports, between));
    if (!isFit) process.exitCode = EXIT_STATUS.HOST_UNFIT;
  });
}

async function lookBetween(examined: readonly Examined[], signal: AbortSignal): Promise<Between> {
  const reach = ways(await askWays(examined, signal));
  return { reach, clock: clockFinding(examined.map(({ host, skew }) => ({ host, skew }))) };
}

function allOf({ fleet }: Hosts): string[] {
  if (fleet.hosts.length > 0) return fleet.hosts.map(({ name }) => name);
  throw new OsmosisError('USAGE', 'there is no fleet file with hosts: name them');
}
