/** `osmosis publish` */
import { endpointText } from '../../agent/address.ts';
import type { Publication } from '../../agent/cell/publication.ts';
import { publishSpec } from '../publish-spec.ts';
import { type HostOptions, printJson, withHosts } from './hosts.ts';

export type PublishOptions = HostOptions & {
  readonly on: string;
  readonly end: boolean;
  readonly dryRun: boolean;
  readonly json?: boolean;
};

export async function runPublish(
  target: string,
  ports: readonly string[],
  options: PublishOptions,
): Promise<void> {
  const specs = ports.map(publishSpec);
  await withHosts(options, async (hosts, signal) => {
    const agent = await hosts.agent(await hosts.connect(options.on));
    const { end, dryRun } = options;
    const result = await agent.call('publish', { target, specs, end, dry_run: dryRun }, { signal });
    if (options.json) printJson({ ok: true, ...(dryRun ? { dry_run: true } : {}), ...result });
    else process.stdout.write(publishedText(result, options));
  });
}

type Result = { readonly cell: string; readonly changed: readonly Publication[] };

function publishedText(
  { cell, changed }: Result,
  { end, dryRun }: Pick<PublishOptions, 'end' | 'dryRun'>,
): string {
  const what = `${dryRun ? 'would be ' : ''}${end ? 'published no longer' : 'published'}`;
  const line = ({ protocol, wire, local }: Publication) =>
    `${cell}: ${endpointText(local)} ${what} at ${protocol} ${endpointText(wire)}\n`;
  return changed.map(line).join('');
}
