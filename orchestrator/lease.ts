/** A lease as a person writes it: 90s, 30m, 1h. */
import { LEASE_SECONDS_MIN } from '../agent/control/fields.ts';
import { LEASE_SECONDS } from '../agent/control/protocol.ts';
import { OsmosisError } from '../agent/error.ts';
import { LEASE_SECONDS_MAX } from '../agent/wire/h2o-follow.ts';

/** A deadline of a week is none. */
const DURATION_S_MAX = 7 * 24 * 3_600;
const SECONDS = { s: 1, m: 60, h: 3_600 } as const;

/** Seconds. `true`: the option without a value. @throws OsmosisError USAGE */
export function parseLease(text: string | true, option: string): number {
  if (text === true) return LEASE_SECONDS;
  const [, digits = '', unit = ''] = /^(\d{1,6})([smh])$/.exec(text) ?? [];
  const seconds = Number(digits) * (SECONDS[unit as keyof typeof SECONDS] ?? 0);
  if (seconds >= LEASE_SECONDS_MIN && seconds <= LEASE_SECONDS_MAX) return seconds;
  throw new OsmosisError(
    'USAGE',
    `${option} ${text}: a lease is ${LEASE_SECONDS_MIN}s to ${leaseText(LEASE_SECONDS_MAX)}, such as 90s, 30m or 1h; nothing was touched`,
  );
}

/** Milliseconds of 90s, 10m, 2h. @throws OsmosisError USAGE */
export function parseDuration(text: string, option: string): number {
  const [, digits = '', unit = ''] = /^(\d{1,6})([smh])$/.exec(text) ?? [];
  const seconds = Number(digits) * (SECONDS[unit as keyof typeof SECONDS] ?? 0);
  if (seconds > 0 && seconds <= DURATION_S_MAX) return seconds * 1_000;
  throw new OsmosisError(
    'USAGE',
    `${option} ${text}: write 90s, 10m or 2h, ${leaseText(DURATION_S_MAX)} at most; nothing was touched`,
  );
}

export function leaseText(seconds: number): string {
  if (seconds % SECONDS.h === 0) return `${seconds / SECONDS.h}h`;
  return seconds % SECONDS.m === 0 ? `${seconds / SECONDS.m}m` : `${seconds}s`;
}
