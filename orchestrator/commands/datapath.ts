/** `osmosis datapath` */
import { listText } from '../../agent/datapath/list.ts';
import { type HostOptions, printJson, withHosts } from './hosts.ts';

export async function runDatapath(
  host: string,
  options: HostOptions & { readonly json?: boolean },
): Promise<void> {
  await withHosts(options, async (hosts, signal) => {
    const agent = await hosts.agent(await hosts.connect(host));
    const entries = await agent.call('datapath', {}, { signal });
    if (options.json) printJson({ ok: true, host: agent.host, ...entries });
    else process.stdout.write(`${listText(entries)}\n`);
  });
}
