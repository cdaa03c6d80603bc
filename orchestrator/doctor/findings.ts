/** All that doctor says of one host. Pure. */
import { VERSION } from '../../agent/version.ts';
import type { Facts } from './facts.ts';
import type { Finding } from './finding.ts';
import { type AgentSeen, agentFindings, portFindings, roomFindings, settingFindings } from './host.ts';
import {
  capabilityFindings,
  criuFindings,
  kernelFinding,
  kernelNotes,
  programFindings,
  rootFinding,
  tryFindings,
} from './kernel.ts';

export type Seen = { readonly facts: Facts; readonly agent: AgentSeen };

/** What any host must have, agent or not: install looks at these first. */
export function groundFindings(facts: Facts): Finding[] {
  return [
    rootFinding(facts),
    kernelFinding(facts),
    ...capabilityFindings(facts),
    ...programFindings(facts),
    ...criuFindings(facts),
    ...tryFindings(facts),
    ...kernelNotes(facts),
    ...roomFindings(facts),
    ...settingFindings(facts),
  ];
}

export function hostFindings({ facts, agent }: Seen, version = VERSION): Finding[] {
  return [...groundFindings(facts), ...portFindings(facts, agent), ...agentFindings(facts, agent, version)];
}
