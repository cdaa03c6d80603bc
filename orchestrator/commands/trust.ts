/** `osmosis trust` */
import { isIP } from 'node:net';
import type { Result } from '../../agent/control/protocol.ts';
import { OsmosisError } from '../../agent/error.ts';
import { addressesOf, checkPins, introductions, type PinRow } from '../trust.ts';
import { type HostOptions, type Hosts, printJson, withHosts } from './hosts.ts';

type OnHost = HostOptions & { readonly on: string; readonly json?: boolean };
type Changing = { readonly dryRun: boolean };

type Listed = Result<'trust.list'>;
type Known = Listed['known'][number];

const agentAt = async (hosts: Hosts, host: string) => hosts.agent(await hosts.connect(host));

export async function runTrustList(options: OnHost): Promise<void> {
  await withHosts(options, async (hosts, signal) => {
    const agent = await agentAt(hosts, options.on);
    const listed = await agent.call('trust.list', {}, { signal });
    if (options.json) printJson({ ok: true, host: agent.host, ...listed });
    else process.stdout.write(`${trustText(agent.host, listed)}\n`);
  });
}

/** `identity`: SHA256:… or ssh-ed25519 …; the agent reads it. */
export async function runTrustPin(
  who: string,
  identity: string,
  options: OnHost & Changing & { readonly replace: boolean },
): Promise<void> {
  const addresses = await addressesOf(who, options.sshConfig);
  await withHosts(options, async (hosts, signal) => {
    const agent = await agentAt(hosts, options.on);
    const { replace, dryRun: dry_run } = options;
    const pins = addresses.map((address) => ({ address, identity }));
    const { rows } = await agent.call('trust.pin', { pins, replace, dry_run }, { signal });
    checkPins(agent.host, rows);
    if (options.json) printJson({ ok: true, dry_run, host: agent.host, rows });
    else process.stdout.write(`${pinText(agent.host, rows, dry_run)}\n`);
  });
}

export async function runTrustRevoke(what: string, options: OnHost & Changing): Promise<void> {
  const isIdentity = what.startsWith('SHA256:') || what.startsWith('ssh-ed25519 ');
  const named = isIdentity
    ? { identity: what }
    : { addresses: isIP(what) === 0 ? await addressesOf(what, options.sshConfig) : [what] };
  await withHosts(options, async (hosts, signal) => {
    const agent = await agentAt(hosts, options.on);
    const { dryRun: dry_run } = options;
    const result = await agent.call('trust.revoke', { ...named, dry_run }, { signal });
    if (options.json) printJson({ ok: true, dry_run, host: agent.host, ...result });
    else process.stdout.write(`${revokedText(agent.host, result, dry_run)}\n`);
  });
}

export async function runTrustPolicy(policy: string | undefined, options: OnHost & Changing): Promise<void> {
  const asked = policy === undefined ? {} : { policy: parsePolicy(policy) };
  await withHosts(options, async (hosts, signal) => {
    const agent = await agentAt(hosts, options.on);
    const { dryRun: dry_run } = options;
    const result = await agent.call('trust.policy', { ...asked, dry_run }, { signal });
    if (options.json) printJson({ ok: true, dry_run, host: agent.host, ...result });
    else process.stdout.write(`${agent.host}: ${result.policy}${policyText(result, dry_run)}\n`);
  });
}

function parsePolicy(text: string): Result<'trust.policy'>['policy'] {
  if (text === 'first-use' || text === 'pinned') return text;
  throw new OsmosisError('USAGE', `no such policy: ${JSON.stringify(text)}; it is first-use or pinned`);
}

/** All or nothing: every host is asked first whether it would. */
export async function runTrustImport(
  names: readonly string[],
  options: HostOptions & Changing & { readonly replace: boolean; readonly json?: boolean },
): Promise<void> {
  if (names.length < 2)
    throw new OsmosisError('USAGE', 'name the hosts that are to trust one another: two at least');
  await withHosts(options, async (hosts, signal) => {
    const agents = await Promise.all(names.map((name) => agentAt(hosts, name)));
    const listed = await Promise.all(agents.map((agent) => agent.call('trust.list', {}, { signal })));
    const introduced = listed.map((each, index) => ({ ...each, host: agents[index]?.host ?? '' }));
    const { pins, shared } = introductions(introduced);
    const { replace, dryRun } = options;
    const pinAll = (dry_run: boolean) =>
      Promise.all(
        agents.map(async (agent, index) => {
          const its = [...(pins[index] ?? [])];
          const none: { rows: PinRow[] } = { rows: [] };
          const { rows } =
            its.length === 0
              ? none
              : await agent.call('trust.pin', { pins: its, replace, dry_run }, { signal });
          checkPins(agent.host, rows);
          return { host: agent.host, fingerprint: introduced[index]?.fingerprint, rows };
        }),
      );
    const would = await pinAll(true);
    const done = dryRun ? would : await pinAll(false);
    if (options.json) return printJson({ ok: true, dry_run: dryRun, hosts: done, shared });
    const lines = done.map(({ host, rows }) => pinText(host, rows, dryRun));
    if (shared.length > 0)
      lines.push(`pinned nowhere, for several of these hosts have it: ${shared.join(', ')}`);
    process.stdout.write(`${lines.join('\n')}\n`);
  });
}

export function trustText(host: string, { fingerprint, policy, known, revoked, refused }: Listed): string {
  const lines = [`${host}: its own identity is ${fingerprint}; policy ${policy}`];
  for (const each of known) lines.push(`  ${knownText(each)}`);
  for (const { address, fingerprint: shown, why, count, last } of refused) {
    const what = { mismatch: 'MISMATCH', unknown: 'NOT PINNED', revoked: 'REVOKED' }[why];
    lines.push(`  ${what}: ${address} has shown ${shown}, refused ${count} times, last ${timeText(last)}`);
  }
  for (const each of revoked) lines.push(`  revoked: ${each.fingerprint}, ${timeText(each.since)}`);
  if (known.length === 0) lines.push('  no other identity is known here');
  return lines.join('\n');
}

function knownText({ address, fingerprint, how, since }: Known): string {
  const what = how === 'pinned' ? 'pinned' : 'first use';
  return `${address}  ${fingerprint}  ${what} ${timeText(since)}`;
}

export function pinText(host: string, rows: readonly PinRow[], dryRun: boolean): string {
  const would = dryRun ? 'would be ' : '';
  const lines = rows.map(({ address, fingerprint, action, before }) => {
    if (action === 'unchanged') return `  ${address}  ${fingerprint}  is pinned already`;
    const instead = action === 'replaced' ? ` in place of ${before}` : '';
    return `  ${address}  ${fingerprint}  ${would}pinned${instead}`;
  });
  return [`${host}:`, ...lines].join('\n');
}

function revokedText(
  host: string,
  { revoked, known, dropped }: Result<'trust.revoke'>,
  dryRun: boolean,
): string {
  const would = dryRun ? 'would be ' : '';
  return [
    ...revoked.map((each) => `${host}: ${each} ${would}refused from now on, until it is pinned again`),
    ...known.map((each) => `  it was known as ${knownText(each)}`),
    ...dropped.map(
      ({ cell, address, flows }) =>
        `  what it has announced from ${address} ${would}dropped: cell ${cell}, ${flows} connections`,
    ),
  ].join('\n');
}

function policyText({ policy, before }: Result<'trust.policy'>, dryRun: boolean): string {
  if (policy === before) return '';
  return dryRun ? ` would be the policy, it is ${before}` : `, no longer ${before}`;
}

function timeText(ms: number): string {
  return new Date(ms).toISOString();
}
