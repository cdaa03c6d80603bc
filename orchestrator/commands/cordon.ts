/** `osmosis cordon`, `osmosis uncordon` */
import { type HostOptions, printJson, withHosts } from './hosts.ts';

export type CordonOptions = HostOptions & {
  readonly reason?: string;
  readonly dryRun: boolean;
  readonly json?: boolean;
};

export async function runCordon(host: string, options: CordonOptions): Promise<void> {
  const { reason, dryRun } = options;
  await withHosts(options, async (hosts, signal) => {
    const agent = await hosts.agent(await hosts.connect(host));
    const params = { dry_run: dryRun, ...(reason === undefined ? {} : { reason }) };
    const { changed, cordon } = await agent.call('cordon', params, { signal });
    if (options.json) printJson({ ok: true, host, changed, ...dryRunField(dryRun), cordon });
    else if (!changed)
      process.stdout.write(`${host} has been cordoned since ${new Date(cordon.since).toISOString()}\n`);
    else
      process.stdout.write(
        `${host} ${dryRun ? 'would be' : 'is'} cordoned: no cell is placed there; those that are there stay\n`,
      );
  });
}

export async function runUncordon(
  host: string,
  options: CordonOptions & { readonly ifReason?: string },
): Promise<void> {
  const { dryRun, ifReason } = options;
  await withHosts(options, async (hosts, signal) => {
    const agent = await hosts.agent(await hosts.connect(host));
    const { cordon } = await agent.call('status', {}, { signal });
    const isOther = ifReason !== undefined && cordon !== undefined && cordon.reason !== ifReason;
    const { changed } = isOther
      ? { changed: false }
      : await agent.call('uncordon', { dry_run: dryRun }, { signal });
    if (options.json) printJson({ ok: true, host, changed, ...dryRunField(dryRun) });
    else if (isOther)
      process.stdout.write(
        `${host} stays cordoned (${cordon.reason ?? 'no reason was given'}, not ${ifReason})\n`,
      );
    else if (!changed) process.stdout.write(`${host} was not cordoned\n`);
    else process.stdout.write(`${host} ${dryRun ? 'would take' : 'takes'} cells again\n`);
  });
}

function dryRunField(dryRun: boolean): { dry_run?: true } {
  return dryRun ? { dry_run: true } : {};
}
