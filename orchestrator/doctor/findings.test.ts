import { describe, expect, it } from 'vitest';
import { type Facts, parseFacts } from './facts.ts';
import { HEALTHY, VERSION } from './fake-facts.ts';
import { hostFindings } from './findings.ts';
import type { AgentSeen } from './host.ts';

const AGENT: AgentSeen = { answers: true, version: VERSION, cordoned: false, cells: 2 };
const DOWN: AgentSeen = { answers: false, code: 'AGENT_UNREACHABLE', message: 'no agent runs here' };

/** The healthy host but for these; undefined takes a fact away. */
function factsWith(changes: Record<string, string | string[] | undefined>): Facts {
  const lines = Object.entries({ ...HEALTHY, ...changes }).flatMap(([name, value]) =>
    value === undefined ? [] : [value].flat().map((each) => `${name} ${each}`),
  );
  return parseFacts(lines.join('\n'));
}

function unwell(changes: Record<string, string | string[] | undefined>, agent: AgentSeen = AGENT): string[] {
  return hostFindings({ facts: factsWith(changes), agent }, VERSION)
    .filter(({ status }) => status !== 'ok')
    .map(({ check, status }) => `${check} ${status}`);
}

describe('what doctor makes of a host', () => {
  it('has nothing to say of a healthy one', () => {
    expect(unwell({})).toEqual([]);
  });

  it.each<[string, Record<string, string | string[] | undefined>, string[]]>([
    ['is not root', { uid: '1000', try_datapath: undefined }, ['root fail']],
    ['has an old kernel', { kernel: '5.10.0' }, ['kernel fail']],
    ['has a kernel that is not new', { kernel: '6.1.0' }, ['kernel warn']],
    ['may not raise limits', { capabilities: '000001fffeffffff' }, ['capabilities warn']],
    ['is a container with few rights', { capabilities: '00000000a80425fb' }, ['capabilities fail']],
    ['lacks programs', { missing: ['catatonit', 'tc', 'ip'] }, ['programs fail']],
    ['has no setpriv that filters', { seccomp_filter: undefined }, ['seccomp_filter note']],
    ['has no tmux', { tmux: undefined }, ['tmux note']],
    ['has a CRIU that is too old for its kernel', { criu: '4.1.1' }, ['criu fail']],
    ['has a CRIU that is fine for an older kernel', { criu: '4.1.1', kernel: '6.12.1' }, []],
    ['has a CRIU that does not start', { criu: '', criu_check: 'failed: x' }, ['criu fail']],
    ['has a kernel that CRIU does not like', { criu_check: 'failed: Error (x)' }, ['criu_check fail']],
    ['can mount no bpffs', { try_bpffs: 'failed: unknown filesystem type' }, ['bpffs fail']],
    ['can make no veth', { try_veth: 'failed: Unknown device type' }, ['veth fail']],
    ['has a verifier that refuses', { try_datapath: 'failed: BPF program is too large' }, ['datapath fail']],
    ['has no programs of ours yet', { try_datapath: undefined }, ['datapath note']],
    ['has no token bucket', { try_tbf: 'failed: no such qdisc' }, ['tbf note']],
    ['has no type information', { btf: undefined }, ['btf warn']],
    ['interprets eBPF', { bpf_jit: '0' }, ['bpf_jit warn']],
    ['is locked down', { lockdown: 'none integrity [confidentiality]' }, ['lockdown fail']],
    ['runs SELinux', { selinux: '1' }, ['selinux warn']],
    ['lets programs open io_urings', { io_uring: 'yes', io_uring_disabled: '0' }, ['io_uring note']],
    ['lets none', { io_uring: 'yes', io_uring_disabled: '2' }, []],
    ['has MPTCP', { mptcp: '1' }, ['mptcp note']],
    ['has no IPv6', { ipv6: undefined }, ['ipv6 note']],
    ['has /run on a disk', { run_fs: 'ext2/ext3' }, ['room fail']],
    ['has little room', { run_kilobytes: '200000' }, ['room warn']],
    ['has no memory', { memory_kilobytes: '20000' }, ['room fail']],
    ['has a full disk', { state_kilobytes: '100' }, ['state fail']],
    ['has /proc/sys read-only', { read_only: 'net/ipv4/ip_local_reserved_ports' }, ['sysctl fail']],
    ['filters paths on several devices', { rp_filter: ['eth0 1', 'eth1 2'] }, ['rp_filter warn']],
    ['filters loosely everywhere', { rp_filter_all: '2', rp_filter: ['eth0 1', 'eth1 1'] }, []],
    ['drops what comes in', { input_policy_drop: '1' }, ['firewall warn']],
    ['drops it but for our port', { input_policy_drop: '1', rules_naming_port: '1' }, []],
    ['has another version', { osmosis_version: '1.2.2' }, ['program warn']],
    ['has a program that does not start', { osmosis_broken: 'no such file' }, ['program fail']],
    ['has a checkout', { osmosis: '/opt/osmosis/orchestrator/cli.js', node: 'v24.1.0' }, ['node note']],
    ['lets others at the agent', { socket: '666 0' }, ['socket fail']],
    ['has no systemd', { systemd: undefined }, ['service note']],
    ['does not start the agent after a reboot', { service: 'disabled active' }, ['service warn']],
  ])('that %s', (_, changes, expected) => {
    expect(unwell(changes)).toEqual(expected);
  });

  it('says that there is no agent, and still everything else', () => {
    const bare = { osmosis: undefined, osmosis_version: undefined, socket: undefined, port_taken: undefined };
    expect(unwell(bare, DOWN)).toEqual(['program fail', 'agent fail']);
    expect(unwell({ ...bare, port_taken: 'yes', criu: '4.0' }, DOWN)).toEqual([
      'criu fail',
      'port fail',
      'program fail',
      'agent fail',
    ]);
  });

  it('says that an agent is of another version, or cordoned', () => {
    expect(unwell({}, { ...AGENT, version: '1.2.4', cordoned: true })).toEqual(['agent warn', 'cordon note']);
    expect(unwell({}, { answers: false, code: 'AGENT_PROTOCOL', message: 'x' })).toEqual(['agent fail']);
  });

  it('names why and a remedy for all that is not well', () => {
    const facts = factsWith({
      uid: '7',
      kernel: '5.4',
      capabilities: '0',
      missing: 'tc',
      criu: '3',
      run_fs: 'xfs',
    });
    for (const { status, why, remedy } of hostFindings({ facts, agent: DOWN }, VERSION)) {
      if (status === 'warn' || status === 'fail')
        expect([why, remedy]).toEqual([expect.any(String), expect.any(String)]);
    }
  });
});

describe('the probe’s lines', () => {
  it('keep all values of a name, and what has spaces', () => {
    const facts = parseFacts('program ip\nprogram tc\nos Debian GNU/Linux 13 (trixie)\nempty \nend yes\n');
    expect(facts.get('program')).toEqual(['ip', 'tc']);
    expect(facts.get('os')).toEqual(['Debian GNU/Linux 13 (trixie)']);
    expect(facts.get('empty')).toEqual(['']);
  });

  it('are an error without the last one', () => {
    expect(() => parseFacts('uid 0\nsh: syntax error')).toThrow(/syntax error/);
  });
});
