/** `osmosis run` */
import { parseLabels } from '../fleet/labels.ts';
import { type HostOptions, printJson, withHosts } from './hosts.ts';

export type RunOptions = HostOptions & {
  readonly name?: string;
  readonly on: string;
  /** KEY=VALUE */
  readonly label?: readonly string[];
  readonly json?: boolean;
};

export async function runRun(argv: readonly string[], options: RunOptions): Promise<void> {
  const placement = parseLabels(options.label);
  await withHosts(options, async (hosts, signal) => {
    const agent = await hosts.agent(await hosts.connect(options.on));
    const isLocal = options.on === 'local';
    const name = options.name === undefined ? {} : { name: options.name };
    // The environment of the command's machine means nothing on another host.
    const env = isLocal
      ? Object.entries(process.env).flatMap(([key, value]): [string, string][] =>
          value === undefined ? [] : [[key, value]],
        )
      : [];
    const path: [string, string] = ['PATH', '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'];
    const { cell, pid } = await agent.call(
      'run',
      {
        ...name,
        placement,
        argv: [...argv],
        cwd: isLocal ? process.cwd() : '/',
        env: isLocal ? env : [path],
      },
      { signal },
    );
    if (options.json) printJson({ ok: true, cell, pid });
    else process.stdout.write(`cell ${cell}, pid ${pid}\n`);
  });
}
