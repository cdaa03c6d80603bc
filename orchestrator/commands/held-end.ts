/** `osmosis held end` */
import type { HeldFact } from '../../agent/control/protocol.ts';
import { confirmed } from '../confirmation.ts';
import { countText } from '../display/format.ts';
import { type HostOptions, printJson, withHosts } from './hosts.ts';
import { idOf } from './relay-end.ts';

/** As much of an id as `osmosis ps` shows. */
const ID_DIGITS = 8;

export type HeldEndOptions = HostOptions & {
  readonly on: string;
  readonly yes: boolean;
  readonly dryRun: boolean;
  readonly json?: boolean;
};

export async function runHeldEnd(cell: string, options: HeldEndOptions): Promise<void> {
  const { dryRun, json = false } = options;
  await withHosts(options, async (hosts, signal) => {
    const agent = await hosts.agent(await hosts.connect(options.on));
    const id = idOf(cell, [await agent.call('status', {}, { signal })]);
    const planned = await agent.call('held.end', { cell: id, dry_run: true }, { signal });
    if (!dryRun && planned.ended.length > 0)
      await confirmed(heldText(agent.host, planned.ended, 'will end'), options);
    const { ended } = dryRun
      ? planned
      : await agent.call('held.end', { cell: id, dry_run: false }, { signal });
    if (json) printJson({ ok: true, dry_run: dryRun, host: agent.host, ended });
    else process.stdout.write(`${heldText(agent.host, ended, dryRun ? 'would end' : 'ended')}\n`);
  });
}

export function heldText(host: string, ended: readonly HeldFact[], verb: string): string {
  if (ended.length === 0) return `${host}: it waits for no such cell`;
  const rows = ended.map(
    ({ cell, flows, since }) =>
      `${verb} ${countText(flows, 'connection')} with cell ${cell.slice(0, ID_DIGITS)}, suspended since ${new Date(since).toISOString()}`,
  );
  return `${host}: ${rows.join('; ')}`;
}
