/** Agents of the lab's hosts, as whoever ends them has to know: that one is gone, that its successor is back, that it rests. */
import { execOn, type LabHost } from '../fixtures/lab/hosts.ts';
import { KILL_AGENT } from './inject.ts';

/** Served once an agent has recovered all that there is to recover; fixtures/lab/host.sh sets where. */
export const METRICS_URL = 'http://127.0.0.1:9818/metrics';
const BACK_MS_MAX = 20_000;
const POLL_MS = 50;

/** Ends the agent and, while it is gone, runs `script` in the second until its supervisor starts another. */
export async function killAgent(host: LabHost, script = 'true'): Promise<void> {
  const gone = "while pgrep -f 'osmosis agent$' >/dev/null; do sleep 0.01; done";
  await execOn(host, ['sh', '-c', `${KILL_AGENT}; ${gone}; ${script}`]);
}

export async function killAgents(...hosts: readonly LabHost[]): Promise<void> {
  await Promise.all(hosts.map((host) => killAgent(host)));
}

/** Resolves when agents that were gone are back, with all that they had to recover. */
export async function untilAgentsBack(...hosts: readonly LabHost[]): Promise<void> {
  await onEach(hosts, polling(`curl -sf -o /dev/null --max-time 5 ${METRICS_URL}`, BACK_MS_MAX, 1));
}

/** Resolves when no migration is under way on any of them, or after `msMax`. */
export async function untilIdle(hosts: readonly LabHost[], msMax: number): Promise<void> {
  const isIdle = `curl -sf ${METRICS_URL} | awk '/^osmosis_migrations_active/ { n += $2 } END { exit !NR || n }'`;
  await onEach(hosts, polling(isIdle, msMax, 0));
}

async function onEach(hosts: readonly LabHost[], script: string): Promise<void> {
  await Promise.all(hosts.map((host) => execOn(host, ['sh', '-c', script])));
}

function polling(condition: string, msMax: number, lateStatus: number): string {
  const wait = `[ $i -lt ${msMax / POLL_MS} ] || exit ${lateStatus}; sleep ${POLL_MS / 1_000}`;
  return `i=0; until ${condition}; do i=$((i + 1)); ${wait}; done`;
}
