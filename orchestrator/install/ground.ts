/** What a host must have before anything of Osmosis is put there. */
import { messageOf, OsmosisError } from '../../agent/error.ts';
import { collectFacts, type Facts } from '../doctor/facts.ts';
import type { Finding } from '../doctor/finding.ts';
import { groundFindings } from '../doctor/findings.ts';
import { missingPackages } from '../doctor/kernel.ts';
import type { HostConnection } from '../ssh/host.ts';

const APT_MS_MAX = 1_800_000;

export type Ground = {
  readonly findings: readonly Finding[];
  /** Debian packages that it lacks. */
  readonly packages: readonly string[];
};

/** @throws OsmosisError TIMEOUT, INTERRUPTED, SSH_UNREACHABLE */
export async function lookAtGround(host: HostConnection, signal: AbortSignal): Promise<Ground> {
  const facts: Facts = await collectFacts(host, signal);
  return { findings: groundFindings(facts), packages: missingPackages(facts) };
}

/** `apt-get install` of what is missing. @throws OsmosisError INSTALL with apt's last words */
export async function installPackages(
  host: HostConnection,
  packages: readonly string[],
  signal: AbortSignal,
): Promise<void> {
  const env = ['env', 'DEBIAN_FRONTEND=noninteractive', 'apt-get', '-q', '-y'];
  for (const argv of [
    [...env, 'update'],
    [...env, 'install', '--no-install-recommends', ...packages],
  ]) {
    const { status, stderr, stdout } = await host
      .execute(argv, { signal, timeoutMs: APT_MS_MAX })
      .catch((error: unknown) => ({ status: null, stdout: '', stderr: messageOf(error) }));
    signal.throwIfAborted();
    if (status === 0) continue;
    const words = (stderr.trim() || stdout.trim()).split('\n').slice(-3).join(' ');
    throw new OsmosisError(
      'INSTALL',
      `${host.name}: ${argv.slice(2).join(' ')} failed: ${words}. Nothing of Osmosis was put there; mend that, or install them by hand.`,
    );
  }
}

/** @throws OsmosisError HOST_UNFIT with all that has to be mended first, each with its remedy */
export function refuseUnfit(host: string, findings: readonly Finding[], hint: string): void {
  const failed = findings.filter(({ status }) => status === 'fail');
  if (failed.length === 0) return;
  const list = failed.map(({ check, what, remedy }) => `\n  ${check}: ${what}\n    do: ${remedy}`).join('');
  throw new OsmosisError(
    'HOST_UNFIT',
    `${host} lacks what Osmosis needs; nothing was touched.${list}${hint}`,
  );
}
