/** `osmosis doctor` on real hosts: with an agent, without one, behind a firewall, and not there at all. */
import { afterEach, describe, expect, it } from 'vitest';
import { EXIT_STATUS } from '../agent/error.ts';
import { execOn, type LabHost } from '../fixtures/lab/hosts.ts';
import { osmosis } from './cli.ts';
import { leavesNothing } from './traces.ts';

type Finding = { check: string; status: string; what: string; remedy?: string };
type Report = {
  ok: boolean;
  hosts: { host: string; ok: boolean; findings: Finding[] }[];
  between?: { reach: (Finding & { from: string; to: string })[]; clock: Finding };
};

const FILTER = 'doctor_test';

async function doctor(...hosts: string[]): Promise<Report & { exitCode: number }> {
  const { object, exitCode } = await osmosis(['doctor', ...hosts, '--json']);
  return { ...(object as Report), exitCode };
}

function statusOf(report: Report, host: string, check: string): string | undefined {
  return report.hosts.find((each) => each.host === host)?.findings.find((each) => each.check === check)
    ?.status;
}

function reachOf(report: Report): string[] {
  return (report.between?.reach ?? []).map(({ from, to, status }) => `${from} ${to} ${status}`);
}

/** As an operator's own firewall would. */
async function dropPort(host: LabHost): Promise<void> {
  const table = `add table inet ${FILTER}
    add chain inet ${FILTER} input { type filter hook input priority 0; }
    add rule inet ${FILTER} input udp dport 18018 drop`;
  await execOn(host, ['nft', '-f', '-'], { input: table });
}

describe('osmosis doctor', () => {
  leavesNothing();
  afterEach(async () => {
    await execOn('peer', ['nft', 'delete', 'table', 'inet', FILTER], { reject: false });
  });

  it('finds nothing to mend at hosts with agents, that reach one another', async () => {
    const report = await doctor('ssh://alpha', 'ssh://peer');
    const failures = report.hosts.flatMap(({ findings }) =>
      findings.filter(({ status }) => status === 'fail'),
    );
    expect(failures).toEqual([]);
    expect(reachOf(report)).toEqual(['ssh://alpha ssh://peer ok', 'ssh://peer ssh://alpha ok']);
    expect(report.between?.clock.status).toBe('ok');
    expect(report.exitCode).toBe(0);
    for (const check of [
      'criu',
      'criu_check',
      'veth',
      'clsact',
      'bpffs',
      'datapath',
      'room',
      'agent',
      'socket',
    ])
      expect([check, statusOf(report, 'ssh://alpha', check)]).toEqual([check, 'ok']);
  });

  it('says what it can of a host without an agent, and that others find nobody there', async () => {
    const report = await doctor('ssh://alpha', 'ssh://legacy');
    expect(report.exitCode).toBe(EXIT_STATUS.HOST_UNFIT);
    expect(statusOf(report, 'ssh://legacy', 'agent')).toBe('fail');
    expect(statusOf(report, 'ssh://legacy', 'datapath')).toBe('ok');
    const [there, back] = report.between?.reach ?? [];
    expect(there).toMatchObject({ status: 'fail', what: expect.stringContaining('nobody listens') });
    expect(back).toMatchObject({ status: 'note', what: expect.stringContaining('not tried') });
  });

  it('finds a firewall by what does not arrive, and says where to look', async () => {
    await dropPort('peer');
    const report = await doctor('ssh://alpha', 'ssh://peer');
    expect(reachOf(report)).toEqual(['ssh://alpha ssh://peer fail', 'ssh://peer ssh://alpha fail']);
    expect(report.between?.reach[0]?.remedy).toMatch(/nft list ruleset/);
  });

  it('takes a host that it can’t reach for a finding', async () => {
    const report = await doctor('ssh://alpha:9');
    expect(report.exitCode).toBe(EXIT_STATUS.HOST_UNFIT);
    expect(statusOf(report, 'ssh://alpha:9', 'ssh')).toBe('fail');
  });
});
