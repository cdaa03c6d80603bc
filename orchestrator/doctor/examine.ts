/** Looks at hosts, all at the same time; judging is for findings.ts and ways.ts. */
import { asOsmosisError } from '../../agent/error.ts';
import { VERSION } from '../../agent/version.ts';
import type { AgentClient } from '../agent-client.ts';
import type { Hosts } from '../commands/hosts.ts';
import type { HostConnection } from '../ssh/host.ts';
import { collectFacts, type Facts, measureSkew, type Skew } from './facts.ts';
import { type Finding, fail } from './finding.ts';
import { hostFindings } from './findings.ts';
import type { AgentSeen } from './host.ts';
import { type Asker, askedAddresses } from './ways.ts';

const ANSWER_MS_MAX = 15_000;
const REACH_MS_MAX = 60_000;

export type Examined = {
  readonly host: string;
  readonly findings: readonly Finding[];
  readonly facts?: Facts;
  /** Undefined: of this machine itself, or not measured. */
  readonly skew?: Skew;
  readonly agent?: AgentClient;
};

/** A host that can't be reached is a finding, not an error. @throws OsmosisError INTERRUPTED */
export async function examine(hosts: Hosts, host: string, signal: AbortSignal): Promise<Examined> {
  try {
    const connection = await hosts.connect(host);
    const isHere = connection.name === 'local';
    const [facts, skew, { seen, agent }] = await Promise.all([
      collectFacts(connection, signal),
      isHere ? undefined : measureSkew(connection, signal),
      askAgent(hosts, connection, signal),
    ]);
    const findings = hostFindings({ facts, agent: seen }, VERSION);
    return {
      host,
      findings,
      facts,
      ...(skew === undefined ? {} : { skew }),
      ...(agent === undefined ? {} : { agent }),
    };
  } catch (thrown) {
    signal.throwIfAborted();
    const { message } = asOsmosisError(thrown);
    const why = 'nothing else could be looked at';
    return { host, findings: [fail('ssh', message, why, `ssh ${host.replace('ssh://', '')} true`)] };
  }
}

async function askAgent(
  hosts: Hosts,
  connection: HostConnection,
  signal: AbortSignal,
): Promise<{ seen: AgentSeen; agent?: AgentClient }> {
  try {
    const agent = await hosts.agent(connection);
    const { version, cordon, cells } = await agent.call('status', {}, { signal, timeoutMs: ANSWER_MS_MAX });
    return { seen: { answers: true, version, cordoned: cordon !== undefined, cells: cells.length }, agent };
  } catch (thrown) {
    signal.throwIfAborted();
    const { code, message } = asOsmosisError(thrown);
    return { seen: { answers: false, code, message } };
  }
}

/** What each host reaches of the others. @throws OsmosisError INTERRUPTED */
export async function askWays(examined: readonly Examined[], signal: AbortSignal): Promise<Asker[]> {
  const known = examined.map(({ host, facts }) => ({ host, addresses: facts?.get('address') ?? [] }));
  const addresses = askedAddresses(known);
  return Promise.all(
    examined.map(async ({ agent }, index): Promise<Asker> => {
      const asker = known[index] ?? { host: '', addresses: [] };
      if (agent === undefined) return { ...asker, message: 'its agent does not answer' };
      try {
        const others = addresses.filter((address) => !asker.addresses.includes(address));
        const { rows } = await agent.call(
          'reach',
          { addresses: others },
          { signal, timeoutMs: REACH_MS_MAX },
        );
        return { ...asker, reached: rows };
      } catch (thrown) {
        signal.throwIfAborted();
        return { ...asker, message: asOsmosisError(thrown).message };
      }
    }),
  );
}
