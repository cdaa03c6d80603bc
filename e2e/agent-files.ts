/** What an agent keeps on disk, changed while it is down. */
import type { LabHost } from '../fixtures/lab/hosts.ts';
import { killAgent, untilAgentsBack } from './agents.ts';

/** Identity, and whom the agent knows. */
export const TRUST_DIRECTORY = '/var/lib/osmosis/trust';

/** Ends the agent, runs `script`, and waits until it is back. */
export async function withAgentDown(host: LabHost, script: string): Promise<void> {
  await killAgent(host, script);
  await untilAgentsBack(host);
}
