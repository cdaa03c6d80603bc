/** What an agent keeps on disk, changed while it is down. */
import { execOn, type LabHost } from '../fixtures/lab/hosts.ts';
import { osmosis } from './cli.ts';
import { KILL_AGENT } from './inject.ts';

const READY_MS_MAX = 20_000;
/** Identity, and whom the agent knows. */
export const TRUST_DIRECTORY = '/var/lib/osmosis/trust';

/** Ends the agent, runs `script`, and waits until it is back. */
export async function withAgentDown(host: LabHost, script: string): Promise<void> {
  await execOn(host, ['sh', '-c', `${KILL_AGENT}; ${script}`]);
  const deadline = Date.now() + READY_MS_MAX;
  while ((await osmosis(['trust', 'list', '--on', `ssh://${host}`])).exitCode !== 0) {
    if (Date.now() > deadline) throw new Error(`the agent of ${host} does not come back`);
  }
}
