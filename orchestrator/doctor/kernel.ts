/** Judges what the probe has found: kernel, CRIU, programs. Pure. */
import { compareVersions, criuMin } from '../../agent/host/preflight.ts';
import type { Facts } from './facts.ts';
import { type Finding, fail, note, ok, warn } from './finding.ts';

/** bpf_skb_set_tstamp; docs/datapath.md */
const KERNEL_MIN = '5.18';
/** Older ones may not believe the closed window that a suspended cell's peers are shown; docs/datapath.md */
const KERNEL_OF_HOLDING = '6.6';
/** Numbers of include/uapi/linux/capability.h. */
const CAPABILITIES = {
  CAP_NET_ADMIN: 12,
  CAP_SYS_PTRACE: 19,
  CAP_SYS_ADMIN: 21,
  CAP_SYS_RESOURCE: 24,
} as const;
/** The Debian package of each program that the agent runs. */
const PACKAGES: Readonly<Record<string, string>> = {
  criu: 'criu',
  bpftool: 'bpftool',
  tc: 'iproute2',
  ip: 'iproute2',
  nsenter: 'util-linux',
  unshare: 'util-linux',
  setpriv: 'util-linux',
  setsid: 'util-linux',
  catatonit: 'catatonit',
  stdbuf: 'coreutils',
  sysctl: 'procps',
  mount: 'mount',
  umount: 'mount',
};

export function one(facts: Facts, name: string): string | undefined {
  return facts.get(name)?.[0];
}

/** Debian packages that the host lacks, as apt-get takes them. */
export function missingPackages(facts: Facts): string[] {
  const missing = facts.get('missing') ?? [];
  return [...new Set(missing.map((program) => PACKAGES[program] ?? program))].sort();
}

function aptCommand(packages: readonly string[]): string {
  return `apt-get install -y --no-install-recommends ${packages.join(' ')}`;
}

export function rootFinding(facts: Facts): Finding {
  const uid = one(facts, 'uid');
  if (uid === '0') return ok('root', 'root');
  return fail(
    'root',
    `user ${uid}, not root: CRIU, namespaces, eBPF and the firewall could not be looked at`,
    "the agent, its socket and CRIU are root's",
    'log in as root (ssh://root@HOST); on this machine: sudo osmosis doctor',
  );
}

export function kernelFinding(facts: Facts): Finding {
  const kernel = one(facts, 'kernel') ?? 'unknown';
  const what = [`Linux ${kernel}`, one(facts, 'machine'), one(facts, 'os')].filter(Boolean).join(', ');
  const newer = "boot a newer kernel, such as that of the distribution's current release";
  if (compareVersions(kernel, KERNEL_MIN) < 0)
    return fail('kernel', what, `the datapath needs Linux ${KERNEL_MIN} or newer`, newer);
  if (compareVersions(kernel, KERNEL_OF_HOLDING) < 0)
    return warn(
      'kernel',
      what,
      `before Linux ${KERNEL_OF_HOLDING}, connections of this host with a suspended process may end while it is away`,
      newer,
    );
  return ok('kernel', what);
}

export function capabilityFindings(facts: Facts): Finding[] {
  const held = BigInt(`0x${one(facts, 'capabilities') || '0'}`);
  const lacks = Object.entries(CAPABILITIES).flatMap(([name, bit]) =>
    (held >> BigInt(bit)) & 1n ? [] : [name],
  );
  if (lacks.length === 0) return [ok('capabilities', 'all that are needed')];
  const vital = lacks.filter((name) => name !== 'CAP_SYS_RESOURCE');
  if (vital.length > 0)
    return [
      fail(
        'capabilities',
        `root lacks ${vital.join(', ')}`,
        'CRIU saves and restores processes with them, the datapath is loaded with them',
        'this is a container: start it with all capabilities, or run the agent outside of it',
      ),
    ];
  return [
    warn(
      'capabilities',
      'root lacks CAP_SYS_RESOURCE',
      `processes of other users than root can't be moved from or to here (there are ${one(facts, 'processes_of_others') ?? 'some'} now): CRIU can't read their limits`,
      'this is a container or a restricted machine: have it started with CAP_SYS_RESOURCE, or move processes of root only',
    ),
  ];
}

export function programFindings(facts: Facts): Finding[] {
  const missing = facts.get('missing') ?? [];
  const needed =
    missing.length === 0
      ? ok('programs', `${(facts.get('program') ?? []).length} of ${Object.keys(PACKAGES).length} there`)
      : fail(
          'programs',
          `not in PATH: ${missing.join(', ')}`,
          'the agent runs them',
          aptCommand(missingPackages(facts)),
        );
  const filter = facts.has('seccomp_filter')
    ? ok('seccomp_filter', `util-linux ${one(facts, 'util_linux') ?? ''} can deny io_uring to a program`)
    : note(
        'seccomp_filter',
        `util-linux ${one(facts, 'util_linux') ?? 'missing'}: setpriv has no --seccomp-filter (2.41 and newer)`,
        "osmosis run can't deny io_uring to programs here, so a modern Node can't be moved: sysctl -w kernel.io_uring_disabled=2",
      );
  const tmux = one(facts, 'tmux');
  const terminals =
    tmux === undefined
      ? note(
          'tmux',
          'not there',
          `osmosis run -t has its terminals by it, 3.2 or newer: ${aptCommand(['tmux'])}`,
        )
      : ok('tmux', tmux);
  return [needed, filter, terminals];
}

export function criuFindings(facts: Facts): Finding[] {
  const version = one(facts, 'criu');
  if (version === undefined) return [];
  const kernel = one(facts, 'kernel') ?? '0';
  const min = criuMin(kernel);
  const install = `apt-get install -y -t forky criu, with Debian testing in sources.list; or criu ${min} from criu.org`;
  // What an older one says of itself does not matter then.
  if (version === '' || compareVersions(version, min) < 0)
    return [
      fail(
        'criu',
        `criu ${version || 'does not say its version'}`,
        `Linux ${kernel} needs CRIU ${min} or newer: older ones can't save processes there`,
        install,
      ),
    ];
  const findings = [ok('criu', version)];
  const check = one(facts, 'criu_check');
  if (check === 'ok') findings.push(ok('criu_check', 'criu check: looks good'));
  else if (check !== undefined)
    findings.push(
      fail(
        'criu_check',
        `criu check ${check}`,
        'the kernel lacks something that CRIU needs to save or restore any process',
        'criu check --all, which names it; then another kernel, or a newer CRIU',
      ),
    );
  return findings;
}

type Try = { readonly fact: string; readonly check: string; readonly what: string; readonly why: string };
const TRIES: readonly Try[] = [
  {
    fact: 'try_pid_namespace',
    check: 'namespaces',
    what: 'a PID and a mount namespace',
    why: 'every moved process lives in namespaces of its own',
  },
  {
    fact: 'try_veth',
    check: 'veth',
    what: 'a network namespace with a veth pair',
    why: 'a moved process is joined to the network by one',
  },
  {
    fact: 'try_clsact',
    check: 'clsact',
    what: 'tc clsact',
    why: 'the datapath is attached there (CONFIG_NET_CLS_ACT, CONFIG_NET_SCH_INGRESS, CONFIG_NET_CLS_BPF)',
  },
  {
    fact: 'try_bpffs',
    check: 'bpffs',
    what: 'a bpffs',
    why: 'programs and maps are pinned there, so that connections outlive the agent (CONFIG_BPF_SYSCALL)',
  },
  {
    fact: 'try_datapath',
    check: 'datapath',
    what: 'loading the datapath',
    why: 'its programs must pass the verifier of this very kernel',
  },
];

/** Each thing was really made, in namespaces that are gone again. */
export function tryFindings(facts: Facts): Finding[] {
  const findings = TRIES.flatMap(({ fact, check, what, why }) => {
    const outcome = one(facts, fact);
    if (outcome === undefined) return [];
    if (outcome === 'ok') return ok(check, `${what}: tried, works`);
    const remedy =
      "boot the distribution's ordinary kernel; in a container: start it with all capabilities, or run the agent outside of it";
    return fail(check, `${what}: tried, ${outcome}`, why, remedy);
  });
  if (!facts.has('try_datapath') && one(facts, 'uid') === '0')
    findings.push(
      note(
        'datapath',
        'not tried: the programs are not on this host, or bpftool is missing',
        'osmosis install brings them; then ask again',
      ),
    );
  const bucket = one(facts, 'try_tbf');
  if (bucket !== undefined && bucket !== 'ok')
    findings.push(
      note(
        'tbf',
        `no token bucket (${bucket})`,
        'datagrams that have waited for a cell come all at once, and some may be lost',
      ),
    );
  return findings;
}

export function kernelNotes(facts: Facts): Finding[] {
  const findings: Finding[] = [];
  findings.push(
    facts.has('btf')
      ? ok('btf', 'the kernel has type information')
      : warn(
          'btf',
          'no /sys/kernel/btf/vmlinux',
          'socket options that CRIU drops (congestion control, TCP_USER_TIMEOUT, …) are lost by a move to or from here',
          'boot a kernel with CONFIG_DEBUG_INFO_BTF=y; those of Debian have it',
        ),
  );
  if (one(facts, 'bpf_jit') === '0')
    findings.push(
      warn(
        'bpf_jit',
        'eBPF is interpreted',
        'moved connections are slow',
        'sysctl -w net.core.bpf_jit_enable=1',
      ),
    );
  if (one(facts, 'lockdown')?.includes('[confidentiality]'))
    findings.push(
      fail(
        'lockdown',
        'the kernel is locked down for confidentiality',
        'it loads no eBPF program that reads memory, and CRIU reads that of processes',
        'boot without lockdown=confidentiality',
      ),
    );
  if (one(facts, 'selinux') === '1')
    findings.push(
      warn('selinux', 'SELinux enforces', 'CRIU and the agent have not been tried under it', 'setenforce 0'),
    );
  if (!facts.has('userfaultfd'))
    findings.push(note('userfaultfd', 'the kernel has none; nothing needs it yet'));
  if (one(facts, 'soft_dirty') === 'no')
    findings.push(note('soft_dirty', 'the kernel tracks no changed pages; nothing needs it yet'));
  if (facts.has('io_uring') && one(facts, 'io_uring_disabled') !== '2')
    findings.push(
      note(
        'io_uring',
        'programs can open one',
        'with it they can’t be moved: start those that would (Node 22.12 and newer) by osmosis run',
      ),
    );
  if (one(facts, 'mptcp') === '1')
    findings.push(
      note(
        'mptcp',
        'programs can use it',
        'with it they can’t be moved: start those that do (Go 1.24 and newer) by osmosis run',
      ),
    );
  if (!facts.has('ipv6'))
    findings.push(note('ipv6', 'off: the host takes only cells without IPv6 connections'));
  return findings;
}
