/** `osmosis hosts` */
import type { Result } from '../../agent/control/protocol.ts';
import { asOsmosisError, EXIT_STATUS, OsmosisError } from '../../agent/error.ts';
import { bytesText } from '../display/format.ts';
import { tableLines } from '../display/table.ts';
import { fleetJsonSchema } from '../fleet/schema.ts';
import { parseSelector } from '../fleet/selector.ts';
import { type HostOptions, type Hosts, printJson, withHosts } from './hosts.ts';

/** An answer that takes longer is as good as none. */
const ANSWER_MS_MAX = 15_000;

export type FleetOptions = HostOptions & {
  readonly select?: string;
  readonly schema: boolean;
  readonly json?: boolean;
};

/** Of one host: what it says, or why it does not. */
export type HostRow = {
  readonly host: string;
  readonly ok: boolean;
  readonly code?: string;
  readonly message?: string;
  readonly version?: string;
  readonly kernel?: string;
  readonly criu?: string | null;
  /** Of the last minute, for all processors together. */
  readonly load?: number;
  readonly cpus?: number;
  readonly room_bytes?: number;
  readonly cells?: number;
  readonly cordoned?: boolean;
};

export async function runHosts(named: readonly string[], options: FleetOptions): Promise<void> {
  if (options.schema) return printJson(fleetJsonSchema());
  const select = parseSelector(options.select ?? 'name');
  await withHosts(options, async (hosts, signal) => {
    const known = hosts.fleet.hosts.filter(select).map(({ name }) => name);
    const names = named.length > 0 ? named : known;
    if (names.length === 0)
      throw new OsmosisError(
        'USAGE',
        hosts.fleet.file === undefined
          ? 'there is no fleet file (osmosis.yaml here, ~/.config/osmosis/fleet.yaml, /etc/osmosis/fleet.yaml or --fleet): name hosts'
          : `no host of ${hosts.fleet.file} is selected`,
      );
    const rows = await Promise.all(names.map((name) => rowOf(name, hosts, signal)));
    if (options.json) printJson({ ok: true, fleet: hosts.fleet.file ?? null, hosts: rows });
    else process.stdout.write(hostsText(rows));
    const failed = rows.find(({ ok }) => !ok);
    if (failed !== undefined) process.exitCode = EXIT_STATUS.AGENT_UNREACHABLE;
  });
}

async function rowOf(name: string, hosts: Hosts, signal: AbortSignal): Promise<HostRow> {
  try {
    const agent = await hosts.agent(await hosts.connect(name));
    return rowWith(name, await agent.call('status', {}, { signal, timeoutMs: ANSWER_MS_MAX }));
  } catch (thrown) {
    if (signal.aborted) throw thrown;
    const { code, message } = asOsmosisError(thrown);
    return { host: name, ok: false, code, message };
  }
}

function rowWith(name: string, { version, host, cells, cordon }: Result<'status'>): HostRow {
  const { kernel, criu, load, cpus, room_bytes } = host;
  return {
    host: name,
    ok: true,
    version,
    kernel,
    criu,
    load,
    cpus,
    room_bytes,
    cells: cells.length,
    cordoned: cordon !== undefined,
  };
}

function hostsText(rows: readonly HostRow[]): string {
  return tableLines(
    ['host', 'agent', 'kernel', 'criu', 'load', 'room', 'cells', ''],
    rows.map(({ host, ok, version, kernel, criu, load, cpus, room_bytes, cells, cordoned, message }) =>
      ok
        ? [
            host,
            version ?? '',
            kernel ?? '',
            criu ?? 'NONE',
            `${(load ?? 0).toFixed(2)} of ${cpus}`,
            bytesText(room_bytes ?? 0),
            String(cells),
            cordoned ? 'CORDONED' : '',
          ]
        : [host, 'NONE', '-', '-', '-', '-', '-', message ?? ''],
    ),
  ).join('');
}
