/** What the probe says of a host, read. The probe runs over plain SSH (or here): no agent is needed. */
import { readFileSync } from 'node:fs';
import { OsmosisError } from '../../agent/error.ts';
import type { HostConnection } from '../ssh/host.ts';

const PROBE = readFileSync(new URL('probe.sh', import.meta.url), 'utf8');
/** All of its own limits together are less. */
const PROBE_MS_MAX = 180_000;
const CLOCK_MS_MAX = 15_000;
/** The first asks for the round trip, too: of several, the fastest says most. */
const CLOCK_TRIES = 3;

/** A name may have several values, such as the programs that a host has. */
export type Facts = ReadonlyMap<string, readonly string[]>;

/** How far the clock of a host is ahead of the one here, and by how much that may be wrong. */
export type Skew = { readonly ms: number; readonly uncertainty_ms: number };

/** @throws OsmosisError INTERNAL where the probe did not get to its end */
export function parseFacts(text: string): Facts {
  const facts = new Map<string, string[]>();
  for (const line of text.split('\n')) {
    const space = line.indexOf(' ');
    if (space <= 0) continue;
    const [name, value] = [line.slice(0, space), line.slice(space + 1).trim()];
    facts.set(name, [...(facts.get(name) ?? []), value]);
  }
  if (!facts.has('end'))
    throw new OsmosisError('INTERNAL', `the probe ended early; its last words: ${text.slice(-200).trim()}`);
  return facts;
}

/** @throws OsmosisError TIMEOUT, INTERRUPTED, SSH_UNREACHABLE, INTERNAL */
export async function collectFacts(host: HostConnection, signal: AbortSignal): Promise<Facts> {
  const argv = ['sh', '-c', PROBE, 'osmosis-doctor'];
  const { stdout, stderr } = await host.execute(argv, { signal, timeoutMs: PROBE_MS_MAX });
  return parseFacts(stdout === '' ? stderr : stdout);
}

/** Undefined where its date(1) does not say. @throws OsmosisError TIMEOUT, INTERRUPTED, SSH_UNREACHABLE */
export async function measureSkew(host: HostConnection, signal: AbortSignal): Promise<Skew | undefined> {
  let best: Skew | undefined;
  for (let tries = 0; tries < CLOCK_TRIES; tries++) {
    const asked = Date.now();
    const { stdout } = await host.execute(['date', '+%s%N'], { signal, timeoutMs: CLOCK_MS_MAX });
    const answered = Date.now();
    if (!/^\d{16,}\s*$/.test(stdout)) return undefined;
    const uncertainty_ms = Math.ceil((answered - asked) / 2);
    const ms = Math.round(Number(stdout) / 1e6 - (asked + answered) / 2);
    if (best === undefined || uncertainty_ms < best.uncertainty_ms) best = { ms, uncertainty_ms };
  }
  return best;
}
