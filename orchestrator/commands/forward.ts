/** `osmosis forward` */
import { endpointText } from '../../agent/address.ts';
import type { Result } from '../../agent/control/protocol.ts';
import { EXIT_STATUS } from '../../agent/error.ts';
import { leaseText, parseLease } from '../lease.ts';
import { type HostOptions, printJson, withHosts } from './hosts.ts';

export type ForwardOptions = HostOptions & {
  readonly on: string;
  readonly lease?: string;
  readonly end?: boolean;
  readonly dryRun: boolean;
  readonly json?: boolean;
};

export async function runForward(target: string, options: ForwardOptions): Promise<void> {
  const lease = options.lease === undefined ? {} : { lease_s: parseLease(options.lease, '--lease') };
  await withHosts(options, async (hosts, signal) => {
    const agent = await hosts.agent(await hosts.connect(options.on));
    const { end = false, dryRun: dry_run } = options;
    const result = await agent.call('forward', { target, ...lease, end, dry_run }, { signal });
    if (options.json) printJson({ ok: true, ...(dry_run ? { dry_run } : {}), ...result });
    else process.stdout.write(`${forwardText(result, dry_run)}\n`);
    // Its agent goes on telling them, and at the latest they forget it when the lease ends.
    if (result.silent.length > 0) process.exitCode = EXIT_STATUS.UNCONFIRMED;
  });
}

function forwardText(
  { cell, lease_s, endpoints, peers, silent }: Result<'forward'>,
  dryRun: boolean,
): string {
  const what = endpoints.map((each) => `${each.protocol} ${endpointText(each)}`).join(', ') || 'nothing';
  const would = dryRun ? 'would ' : '';
  const state =
    lease_s === 0
      ? `${cell}: new connections to ${what} ${would}no longer follow it`
      : `${cell}: new connections to ${what} ${would}follow it, renewed for ${leaseText(lease_s)} at a time`;
  const lines = [state, `  peers: ${peers.join(', ') || 'none'}`];
  if (silent.length > 0) lines.push(`  not acknowledged yet: ${silent.join(', ')}`);
  return lines.join('\n');
}
