/** Judges what the probe has found: room, network settings, the agent. Pure. */
import { bytesText } from '../display/format.ts';
import type { Facts } from './facts.ts';
import { type Finding, fail, note, ok, warn } from './finding.ts';
import { one } from './kernel.ts';

/** Less than that holds no image worth the name. */
const RUN_BYTES_MIN = 64 * 1024 * 1024;
const RUN_BYTES_ENOUGH = 512 * 1024 * 1024;
const STATE_BYTES_MIN = 16 * 1024 * 1024;
const STRICT = 1;

/** What the command has heard from the agent of a host, or why not. */
export type AgentSeen =
  | { readonly answers: true; readonly version: string; readonly cordoned: boolean; readonly cells: number }
  | { readonly answers: false; readonly code: string; readonly message: string };

export function roomFindings(facts: Facts): Finding[] {
  const run = kilobytes(facts, 'run_kilobytes');
  const memory = kilobytes(facts, 'memory_kilobytes');
  const room = Math.min(run, memory);
  const isTmpfs = one(facts, 'run_fs') === 'tmpfs';
  const what = `/run: ${bytesText(run)} free on ${one(facts, 'run_fs')}; memory: ${bytesText(memory)} available`;
  const why =
    'the image of a process is there while it moves, and must fit, beside its memory at the destination';
  const enlarge = 'mount -o remount,size=8G /run, and the same in /etc/fstab';
  const findings: Finding[] = [];
  if (!isTmpfs)
    findings.push(
      fail('room', `/run is no tmpfs (${one(facts, 'run_fs')})`, `${why}; the agent refuses a disk`, enlarge),
    );
  else if (room < RUN_BYTES_MIN) findings.push(fail('room', what, why, enlarge));
  else if (room < RUN_BYTES_ENOUGH) findings.push(warn('room', what, why, enlarge));
  else findings.push(ok('room', what));
  const state = kilobytes(facts, 'state_kilobytes');
  findings.push(
    state < STATE_BYTES_MIN
      ? fail(
          'state',
          `/var/lib: ${bytesText(state)} free`,
          'the decision of every move is written there, durably, before a process changes hosts',
          'df -h /var/lib; make room there',
        )
      : ok('state', `/var/lib: ${bytesText(state)} free`),
  );
  return findings;
}

function kilobytes(facts: Facts, name: string): number {
  return Number(one(facts, name) ?? 0) * 1024;
}

export function settingFindings(facts: Facts): Finding[] {
  const readOnly = facts.get('read_only') ?? [];
  const settings =
    readOnly.length === 0
      ? ok('sysctl', 'the settings that the agent changes can be written')
      : fail(
          'sysctl',
          `read-only: ${readOnly.map((path) => path.replaceAll('/', '.')).join(', ')}`,
          'ports of the wire are reserved there, and connections with this host itself need the settings of lo',
          'mount -o remount,rw /proc/sys; in a container: start it with --security-opt systempaths=unconfined',
        );
  const all = Number(one(facts, 'rp_filter_all') ?? 0);
  const devices = (facts.get('rp_filter') ?? []).map((line) => line.split(' '));
  const strict = devices.flatMap(([device = '', own]) =>
    Math.max(all, Number(own)) === STRICT ? device : [],
  );
  const path =
    strict.length === 0 || devices.length < 2
      ? ok(
          'rp_filter',
          strict.length === 0 ? 'not strict' : 'strict, on the only device with an IPv4 address',
        )
      : warn(
          'rp_filter',
          `strict on ${strict.join(', ')}, of ${devices.length} devices with IPv4 addresses`,
          'when the other end of a connection moves to where another device leads, its packets come in by that one, under the old address: a strict filter drops them',
          'sysctl -w net.ipv4.conf.all.rp_filter=2, and the same in /etc/sysctl.d',
        );
  return [settings, path];
}

export function portFindings(facts: Facts, agent: AgentSeen): Finding[] {
  const findings: Finding[] = [];
  const owner = one(facts, 'port_owner');
  const isOurs = agent.answers || facts.has('socket');
  if (facts.has('port_taken') && !isOurs)
    findings.push(
      fail(
        'port',
        `UDP port 18018 is taken${owner ? `, by ${owner}` : ''}, and no agent answers`,
        'agents talk to one another over it',
        "ss -Hulnp 'sport = :18018' says by what: end that",
      ),
    );
  else
    findings.push(
      ok('port', facts.has('port_taken') ? 'UDP port 18018: the agent' : 'UDP port 18018 is free'),
    );
  const drops = Number(one(facts, 'input_policy_drop') ?? 0) > 0;
  const named = Number(one(facts, 'rules_naming_port') ?? 0) > 0;
  if (drops && !named)
    findings.push(
      warn(
        'firewall',
        'the input policy is drop, and no rule names port 18018',
        'agents of other hosts may not be heard: osmosis doctor HOST HOST tries it',
        "nft insert rule inet filter input udp dport 18018 accept (in nft list ruleset: the chain's own names)",
      ),
    );
  else if (facts.has('input_policy_drop'))
    findings.push(ok('firewall', drops ? 'a rule names port 18018' : 'no input policy drops'));
  return findings;
}

/** `version`: of this command. */
export function agentFindings(facts: Facts, agent: AgentSeen, version: string): Finding[] {
  return [
    programFinding(facts, version),
    ...nodeFindings(facts),
    answerFinding(facts, agent, version),
    ...socketFindings(facts),
    ...serviceFindings(facts),
    ...(agent.answers && agent.cordoned
      ? [note('cordon', 'cordoned: no cell is placed here', 'osmosis uncordon HOST when it may take cells')]
      : []),
  ];
}

function programFinding(facts: Facts, version: string): Finding {
  const path = one(facts, 'osmosis');
  const broken = one(facts, 'osmosis_broken');
  const there = one(facts, 'osmosis_version');
  const why = 'commands reach the agent by running it, over SSH';
  if (path === undefined)
    return fail('program', 'osmosis is not in PATH', why, 'osmosis install HOST, from a machine that has it');
  if (broken !== undefined)
    return fail(
      'program',
      `${path} does not start: ${broken}`,
      why,
      'osmosis upgrade HOST, or Node 24 and newer in PATH for a checkout',
    );
  if (there !== version)
    return warn(
      'program',
      `${path}: version ${there}; this command is ${version}`,
      'agents and commands of different versions may not understand one another',
      'osmosis upgrade HOST',
    );
  return ok('program', `${path}: version ${there}`);
}

function nodeFindings(facts: Facts): Finding[] {
  const path = one(facts, 'osmosis') ?? '';
  if (!path.endsWith('.js')) return [];
  return [
    note(
      'node',
      `a checkout, run by Node ${one(facts, 'node') ?? '(none in PATH)'}`,
      'a package brings its own: osmosis install HOST',
    ),
  ];
}

function answerFinding(facts: Facts, agent: AgentSeen, version: string): Finding {
  const start =
    one(facts, 'systemd') === undefined
      ? 'osmosis agent, under whatever keeps services up there'
      : 'systemctl enable --now osmosis-agent; journalctl -u osmosis-agent says why it ended';
  if (!agent.answers)
    return fail(
      'agent',
      `no answer: ${agent.message}`,
      agent.code === 'AGENT_PROTOCOL'
        ? 'it is of another version than this command'
        : 'nothing can be moved from or to here, and connections with moved processes need it',
      agent.code === 'AGENT_PROTOCOL' ? 'osmosis upgrade HOST' : start,
    );
  const what = `answers, version ${agent.version}, ${agent.cells} ${agent.cells === 1 ? 'cell' : 'cells'}`;
  if (agent.version !== version)
    return warn(
      'agent',
      `${what}; this command is ${version}`,
      'agents and commands of different versions may not understand one another',
      'osmosis upgrade HOST',
    );
  return ok('agent', what);
}

function socketFindings(facts: Facts): Finding[] {
  const socket = one(facts, 'socket');
  if (socket === undefined) return [];
  if (socket === '600 0') return [ok('socket', '/run/osmosis/agent.sock is for root alone')];
  return [
    fail(
      'socket',
      `/run/osmosis/agent.sock has mode and owner ${socket}`,
      'whoever can open it can take any process of this host',
      'chown root:root /run/osmosis/agent.sock && chmod 600 /run/osmosis/agent.sock',
    ),
  ];
}

function serviceFindings(facts: Facts): Finding[] {
  if (!facts.has('systemd'))
    return [note('service', 'no systemd here', 'something else has to start the agent after a reboot')];
  const [enabled, active] = (one(facts, 'service') ?? '').split(' ');
  if (enabled === 'enabled' && active === 'active')
    return [ok('service', 'osmosis-agent is enabled and active')];
  return [
    warn(
      'service',
      `osmosis-agent is ${enabled || 'unknown'} and ${active || 'inactive'}`,
      'after a reboot there is no agent, and connections with moved processes end',
      'systemctl enable --now osmosis-agent',
    ),
  ];
}
