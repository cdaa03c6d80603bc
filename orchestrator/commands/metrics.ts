/** `osmosis metrics` */
import { type HostOptions, printJson, withHosts } from './hosts.ts';

export async function runMetrics(
  host: string,
  options: HostOptions & { readonly json?: boolean },
): Promise<void> {
  await withHosts(options, async (hosts, signal) => {
    const agent = await hosts.agent(await hosts.connect(host));
    const { content_type, text } = await agent.call('metrics', {}, { signal });
    if (options.json) printJson({ ok: true, host: agent.host, content_type, text });
    else process.stdout.write(text);
  });
}
