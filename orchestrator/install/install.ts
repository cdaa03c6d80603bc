/** Puts Osmosis on a host, and changes its version: each the story in order. */
import { setTimeout as sleep } from 'node:timers/promises';
import { messageOf, OsmosisError } from '../../agent/error.ts';
import type { Hosts } from '../commands/hosts.ts';
import type { HostConnection } from '../ssh/host.ts';
import { installPackages, lookAtGround, refuseUnfit } from './ground.ts';
import type { PackageFile } from './package-file.ts';
import { type HostState, Steps } from './steps.ts';

const ASKED_MAX = 15;
const ASK_AGAIN_MS = 1_000;
const STATUS_MS_MAX = 10_000;
const LOG_MS_MAX = 10_000;
/** As long as one step may take. */
const THROUGHOUT_MS_MAX = 120_000;

export type InstallOptions = {
  readonly apt: boolean;
  /** No systemd there, but something else starts the agent again whenever it has ended. */
  readonly supervised: boolean;
  readonly dryRun: boolean;
};

/** What was done, or would be. */
export type Installed = {
  readonly version: string;
  readonly release: string;
  /** Of an upgrade: what ran before. */
  readonly before?: string;
  readonly changed: boolean;
  /** Debian packages that were installed, or would be. */
  readonly packages: readonly string[];
  /** It is systemd that starts the agent there. */
  readonly systemd: boolean;
  /** `answers`; or nothing there starts it, and whoever does has to, again if it runs. */
  readonly agent: 'answers' | 'to be started' | 'to be restarted';
};

export type Where = {
  readonly hosts: Hosts;
  readonly host: HostConnection;
  readonly signal: AbortSignal;
  /** Says what goes on. */
  readonly say: (text: string) => void;
};

/** @throws OsmosisError HOST_UNFIT, INSTALL; the host is as it was before then */
export async function install(where: Where, file: PackageFile, options: InstallOptions): Promise<Installed> {
  const { host, signal, say } = where;
  const steps = new Steps(host, signal);
  const state = await steps.state();
  refuseForeign(host.name, state);
  if (state.current !== '' && state.current !== file.release)
    throw new OsmosisError(
      'INSTALL',
      `${host.name} has ${state.current}, this package is ${file.release}: osmosis upgrade ${host.name}. Nothing was touched.`,
    );
  await refuseStranger(where, state);
  const packages = await prepareGround(where, options);
  const isThere = state.current === file.release;
  const isRunning = state.agents.some(({ release }) => release === file.release);
  const done = { version: file.version, release: file.release, packages, systemd: state.systemd };
  if (isThere && (isRunning || !state.systemd))
    return { ...done, changed: packages.length > 0, agent: isRunning ? 'answers' : 'to be started' };
  if (options.dryRun)
    return { ...done, changed: true, agent: starts(state, options) ? 'answers' : 'to be started' };

  if (!state.releases.includes(file.release)) {
    say(`sending ${(file.bytes / 1e6).toFixed(1)} MB`);
    await steps.receive(file);
  }
  try {
    await throughout(host).activate(file.release);
    signal.throwIfAborted();
    if (!starts(state, options)) return { ...done, changed: true, agent: 'to be started' };
    say('waiting for the agent');
    await answered(where, steps, file);
  } catch (thrown) {
    // It had nothing of ours before: nothing stays.
    if (!isThere) await throughout(host).uninstall(state.identity);
    throw thrown;
  }
  return { ...done, changed: true, agent: 'answers' };
}

/** Moved connections go on while the agent is replaced. @throws OsmosisError HOST_UNFIT, HOST_IN_USE, INSTALL */
export async function upgrade(where: Where, file: PackageFile, options: InstallOptions): Promise<Installed> {
  const { host, signal, say } = where;
  const steps = new Steps(host, signal);
  const state = await steps.state();
  refuseForeign(host.name, state);
  const before = state.current;
  if (before === '')
    throw new OsmosisError(
      'INSTALL',
      `${host.name} has no installed Osmosis: osmosis install ${host.name}. Nothing was touched.`,
    );
  const packages = await prepareGround(where, options);
  const done = { version: file.version, release: file.release, before, packages, systemd: state.systemd };
  const isRunning = state.agents.some(({ release }) => release === file.release);
  if (before === file.release && (isRunning || !starts(state, options)))
    return { ...done, changed: packages.length > 0, agent: isRunning ? 'answers' : 'to be restarted' };
  refuseMigrating(host.name, state);
  if (options.dryRun)
    return { ...done, changed: true, agent: starts(state, options) ? 'answers' : 'to be restarted' };

  if (!state.releases.includes(file.release)) {
    say(`sending ${(file.bytes / 1e6).toFixed(1)} MB`);
    await steps.receive(file);
  }
  // One may have begun while the package was on its way.
  refuseMigrating(host.name, await steps.state());
  try {
    await throughout(host).activate(file.release);
    signal.throwIfAborted();
    if (!starts(state, options)) return { ...done, changed: true, agent: 'to be restarted' };
    say('restarting the agent');
    if (!state.systemd) await throughout(host).endAgent();
    await answered(where, steps, file);
  } catch (thrown) {
    return await fallBack(where, state, thrown);
  }
  await steps.prune([file.release, before]);
  return { ...done, changed: true, agent: 'answers' };
}

/** @throws OsmosisError INSTALL that says what runs now */
async function fallBack({ host, signal }: Where, state: HostState, cause: unknown): Promise<never> {
  const steps = throughout(host);
  const message = signal.aborted ? 'interrupted' : messageOf(cause);
  await steps.activate(state.current);
  if (!state.systemd) await steps.endAgent();
  const isBack = (await steps.settled(state.current)) === 'runs';
  await steps.prune(state.releases);
  throw new OsmosisError(
    signal.aborted ? 'INTERRUPTED' : 'INSTALL',
    isBack
      ? `${message}. ${host.name} runs ${state.current} again, as before; its cells and connections are as they were.`
      : `${message}. ${host.name} has ${state.current} again, but its agent does not answer either: connections that have moved go on without it; see its log.`,
    { cause },
  );
}

/** Whatever the operator has pressed: a step that was left in the middle would still be under way when it is undone. */
function throughout(host: HostConnection): Steps {
  return new Steps(host, AbortSignal.timeout(THROUGHOUT_MS_MAX));
}

/** The agent runs, and says that it is of this version. @throws OsmosisError INSTALL */
async function answered({ hosts, host, signal }: Where, steps: Steps, file: PackageFile): Promise<void> {
  const failed = (why: string, cause?: unknown) =>
    new OsmosisError('INSTALL', `the agent of ${file.release} on ${host.name} ${why}`, { cause });
  const settled = await steps.settled(file.release);
  if (settled !== 'runs')
    throw failed(
      `${settled === 'absent' ? 'does not start' : 'ends at once whenever it is started'}${await lastWords(host, signal)}`,
    );
  let last: unknown;
  // It listens only once it has read what is in the kernel.
  for (let tries = 0; tries < ASKED_MAX; tries++) {
    try {
      const agent = await hosts.agent(host);
      const { version } = await agent.call('status', {}, { signal, timeoutMs: STATUS_MS_MAX });
      agent.close();
      if (version === file.version) return;
      last = failed(`says that it is ${version}`);
    } catch (thrown) {
      signal.throwIfAborted();
      last = thrown;
    }
    await sleep(ASK_AGAIN_MS, undefined, { signal });
  }
  throw failed(`does not answer${await lastWords(host, signal)}`, last);
}

async function lastWords(host: HostConnection, signal: AbortSignal): Promise<string> {
  const argv = ['journalctl', '-u', 'osmosis-agent', '-n', '20', '--no-pager', '-o', 'cat'];
  const said = await host.execute(argv, { signal, timeoutMs: LOG_MS_MAX }).catch(() => undefined);
  const words =
    said?.status === 0 ? said.stdout.split('\n').findLast((line) => line.startsWith('osmosis: ')) : undefined;
  return words === undefined ? '' : ` (${words})`;
}

function starts({ systemd }: HostState, { supervised }: InstallOptions): boolean {
  return systemd || supervised;
}

async function prepareGround(where: Where, { apt, dryRun }: InstallOptions): Promise<readonly string[]> {
  const { host, signal, say } = where;
  say('looking at what the host has');
  const ground = await lookAtGround(host, signal);
  const { packages } = ground;
  if (packages.length > 0 && apt && !dryRun) {
    say(`apt-get install ${packages.join(' ')}`);
    await installPackages(host, packages, signal);
    refuseUnfit(host.name, (await lookAtGround(host, signal)).findings, '');
    return packages;
  }
  const findings = ground.findings.filter(({ check }) => !(apt && check === 'programs'));
  const hint = packages.length > 0 && !apt ? '\nWith --apt those packages are installed first.' : '';
  refuseUnfit(host.name, findings, hint);
  return packages;
}

function refuseForeign(host: string, { foreign }: HostState): void {
  if (foreign.length === 0) return;
  throw new OsmosisError(
    'INSTALL',
    `${host} has ${foreign.join(', ')}, which osmosis install has not put there: move it away first. Nothing was touched.`,
  );
}

/** An agent of a checkout, say: two can't share a host. */
async function refuseStranger({ hosts, host, signal }: Where, { agents }: HostState): Promise<void> {
  if (agents.length > 0) return;
  const isAnswered = await hosts
    .agent(host)
    .then((agent) => agent.call('status', {}, { signal, timeoutMs: STATUS_MS_MAX }))
    .then(
      () => true,
      () => false,
    );
  signal.throwIfAborted();
  if (isAnswered)
    throw new OsmosisError(
      'INSTALL',
      `an agent runs on ${host.name} that osmosis install has not put there: end it first. Nothing was touched.`,
    );
}

function refuseMigrating(host: string, { migrations }: HostState): void {
  if (migrations === 0) return;
  throw new OsmosisError(
    'HOST_IN_USE',
    `a cell is just being moved from or to ${host}: wait until that is over (osmosis ps ${host}). Its agent runs on as it is.`,
  );
}
