/** A host without an agent floods the H2O port of those that take part in a move: the move and its traffic go on. */
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { execOn, LAB_HOSTS, type LabHost, spawnOn } from '../fixtures/lab/hosts.ts';
import { startStreamClient, startStreamServer } from '../fixtures/load/control.ts';
import { move } from './cli.ts';
import { leavesNothing } from './traces.ts';

const FLOODER = '/opt/osmosis/fixtures/load/flood.py';
const LOG = '/tmp/flood.log';
const PORT = 7190;
const FLOODED_MS = 1_500;
const SENT_MIN = 20_000;
/** Of an agent that is flooded, beyond what it had before: a garbage collector takes its time. */
const AGENT_GROWTH_KB_MAX = 150 * 1024;
const LOG_GROWTH_BYTES_MAX = 256 * 1024;

/** As fast as one process can, with HELLOs that claim the very flows that move, until disposed of; then what was sent. */
async function flood(target: LabHost): Promise<{ stop(): Promise<number> }> {
  const argv = ['python3', '-B', FLOODER, LAB_HOSTS[target], LAB_HOSTS.alpha, String(PORT), LAB_HOSTS.peer];
  const log = `${LOG}.${target}`;
  await execOn('legacy', ['rm', '-f', log]);
  const { pid } = await spawnOn('legacy', argv, { logFile: log });
  return {
    stop: async () => {
      await execOn('legacy', ['kill', String(pid)], { reject: false });
      const wait = `i=0; until grep -q sent ${log} || [ $i -gt 100 ]; do i=$((i + 1)); sleep 0.05; done; cat ${log}`;
      const { stdout } = await execOn('legacy', ['sh', '-c', wait]);
      const last = stdout.trim().split('\n').at(-1) ?? '{}';
      return (JSON.parse(last) as { sent?: number }).sent ?? 0;
    },
  };
}

type AgentSize = { readonly resident: number; readonly log: number };

/** Resident memory of a host's agent, in kB, and the bytes of its log. */
async function agentSize(host: LabHost): Promise<AgentSize> {
  const look =
    "pid=$(pgrep -of 'osmosis agent$'); awk '/VmRSS/ {print $2}' /proc/$pid/status; stat -c %s /var/log/osmosis-agent.log";
  const { stdout } = await execOn(host, ['sh', '-c', look]);
  const [resident = Number.NaN, log = Number.NaN] = stdout.trim().split('\n').map(Number);
  return { resident, log };
}

function expectBounded(before: AgentSize, after: AgentSize): void {
  expect(after.resident - before.resident).toBeLessThan(AGENT_GROWTH_KB_MAX);
  expect(after.log - before.log).toBeLessThan(LOG_GROWTH_BYTES_MAX);
}

describe('under a flood from one source', () => {
  leavesNothing();

  it('a cell moves while its peer is flooded, and back while its host is', async () => {
    await using server = await startStreamServer('alpha', { port: PORT });
    await using client = await startStreamClient({
      server: 'alpha',
      port: PORT,
      connections: 20,
      everyMs: 20,
    });
    for (const [flooded, from, to] of [
      ['peer', 'alpha', 'beta'],
      ['alpha', 'beta', 'alpha'],
    ] as const) {
      const size = await agentSize(flooded);
      const flooder = await flood(flooded);
      try {
        await sleep(FLOODED_MS);
        const [at] = await server.locate();
        const moved = await move(at?.pid ?? 0, from, to);
        expect(moved.flows).toEqual({ moved: 21, relayed: 0, lost: 0 });
        expectBounded(size, await agentSize(flooded));
      } finally {
        expect(await flooder.stop()).toBeGreaterThan(SENT_MIN);
      }
    }
    const summary = await client.stop();
    expect(summary).toMatchObject({ ok: true, resets: 0, out_of_order: 0 });
    expect(summary.bytes_in).toBeGreaterThan(0);
  });
});
