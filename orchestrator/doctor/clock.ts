/** Judges clocks: what a moved process sees as a jump. Pure. */
import type { Skew } from './facts.ts';
import { type Finding, note, ok, warn } from './finding.ts';

/** Beyond what the measurement may be wrong by. */
const SKEW_MS_MAX = 500;

export type Clock = { readonly host: string; readonly skew: Skew | undefined };

/** One host is compared with this machine, several with one another: the one here may be wrong. */
export function clockFinding(clocks: readonly Clock[]): Finding {
  const measured = clocks
    .flatMap(({ host, skew }) => (skew === undefined ? [] : { host, ...skew }))
    .sort((a, b) => a.ms - b.ms);
  const [first, last] = [measured[0], measured.at(-1)];
  if (first === undefined || last === undefined)
    return note('clock', 'not measured: no date(1) there that has nanoseconds');
  const isAlone = measured.length === 1;
  const apart_ms = isAlone ? first.ms : last.ms - first.ms;
  const uncertainty_ms = isAlone ? first.uncertainty_ms : last.uncertainty_ms + first.uncertainty_ms;
  const whose = isAlone
    ? 'ahead of this machine'
    : `between ${first.host} and ${last.host}, the furthest apart`;
  const what = `${apart_ms} ms ${whose}, give or take ${uncertainty_ms} ms`;
  if (Math.abs(apart_ms) - uncertainty_ms <= SKEW_MS_MAX) return ok('clock', what);
  return warn(
    'clock',
    what,
    'the wall clock of a process jumps when it moves: its time-outs, leases and certificates may not like that',
    'timedatectl set-ntp true, at each host',
  );
}
