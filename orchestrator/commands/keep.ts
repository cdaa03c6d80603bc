/** `osmosis keep` */
import type { KeptCell } from '../../agent/control/protocol.ts';
import { EXIT_STATUS, OsmosisError } from '../../agent/error.ts';
import { parseLabels } from '../fleet/labels.ts';
import { type HostOptions, printJson, withHosts } from './hosts.ts';

export type KeepOptions = HostOptions & {
  readonly on: string;
  readonly name?: string;
  /** KEY=VALUE; KEY= takes one away. */
  readonly label?: readonly string[];
  readonly end: boolean;
  readonly leave?: string[];
  readonly dryRun: boolean;
  readonly json?: boolean;
};

export async function runKeep(targets: readonly string[], options: KeepOptions): Promise<void> {
  const { name, end, dryRun, leave = [] } = options;
  if (name !== undefined && targets.length !== 1)
    throw new OsmosisError('USAGE', '--name is for one process; nothing was touched');
  if (leave.length > 0 && targets.length > 0)
    throw new OsmosisError(
      'USAGE',
      '--leave is for the whole host, not for single processes; nothing was touched',
    );
  if (leave.length > 0 && dryRun)
    throw new OsmosisError('USAGE', '--leave has no --dry-run; nothing was touched');
  if (end && targets.length === 0 && leave.length === 0)
    throw new OsmosisError('USAGE', '--end needs the processes or cells to let go; nothing was touched');
  const placement = parseLabels(options.label);
  await withHosts(options, async (hosts, signal) => {
    const agent = await hosts.agent(await hosts.connect(options.on));
    const named = name === undefined ? {} : { name };
    const params = { targets: [...targets], placement, end, dry_run: dryRun, leave, ...named };
    const result = await agent.call('keep', params, { signal });
    if (options.json) printJson({ ok: true, ...(dryRun ? { dry_run: true } : {}), ...result });
    else process.stdout.write(keptText(result.cells, dryRun && targets.length > 0));
    const { untold = [] } = result;
    if (untold.length === 0) return;
    process.exitCode = EXIT_STATUS.UNCONFIRMED;
    if (!options.json)
      process.stdout.write(
        `WARNING: not acknowledged yet by ${untold.join(', ')}; keep the old address until it is\n`,
      );
  });
}

/** One line a cell, and one below it for each of its peers. */
export function keptText(cells: readonly KeptCell[], wouldBe = false): string {
  if (cells.length === 0) return 'nothing is kept; osmosis keep PID keeps the connections of a process\n';
  return cells
    .flatMap(({ cell, pid, kept, peers }) => [
      `${cell} (pid ${pid}) ${wouldBe ? 'would be ' : ''}${kept ? 'kept' : 'not kept'}`,
      ...(kept ? peers.map(peerText) : []),
    ])
    .map((line) => `${line}\n`)
    .join('');
}

function peerText({ peer, agent, flows, away, told }: KeptCell['peers'][number]): string {
  if (!agent) return `  ${peer}: no agent answers there, its connections end with this address`;
  const connections = `${flows} ${flows === 1 ? 'connection' : 'connections'}`;
  if (!told) return `  ${peer}: ${connections}, held until it acknowledges the new address`;
  return `  ${peer}: ${connections}${away === 0 ? '' : `, ${away} of them by another address now`}`;
}
