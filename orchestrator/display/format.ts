/** Sizes, rates and durations for people: three digits, SI units. */

const UNITS = ['B', 'kB', 'MB', 'GB', 'TB'] as const;
type Progress = { readonly bytes: number; readonly bytes_per_s: number; readonly total_bytes?: number };
const UNIT_STEP = 1000;
const MINUTE_S = 60;

/** `0 B`, `999 B`, `1.50 kB`, `12.3 MB`, `456 GB`. */
export function bytesText(bytes: number): string {
  let value = bytes;
  let unit = 0;
  // 999.5 would round to a fourth digit.
  while (value >= UNIT_STEP - 0.5 && unit < UNITS.length - 1) {
    value /= UNIT_STEP;
    unit += 1;
  }
  return `${unit === 0 ? Math.round(value) : threeDigits(value)} ${UNITS[unit]}`;
}

export function rateText(bytesPerSecond: number): string {
  return `${bytesText(bytesPerSecond)}/s`;
}

/** `12.3 MB of 200 MB at 50.1 MB/s`. */
export function filesText({ bytes, bytes_per_s, total_bytes }: Progress): string {
  const all = total_bytes === undefined ? '' : ` of ${bytesText(total_bytes)}`;
  return `${bytesText(bytes)}${all} at ${rateText(bytes_per_s)}`;
}

/** `0 ms`, `412 ms`, `1.90 s`, `2 min 5 s`. */
export function durationText(ms: number): string {
  if (ms < UNIT_STEP - 0.5) return `${Math.round(ms)} ms`;
  const seconds = ms / UNIT_STEP;
  if (seconds < MINUTE_S - 0.05) return `${threeDigits(seconds)} s`;
  const whole = Math.round(seconds);
  return `${Math.floor(whole / MINUTE_S)} min ${whole % MINUTE_S} s`;
}

/** `1 connection`, `3 connections`. */
export function countText(count: number, noun: string, plural = `${noun}s`): string {
  return `${count} ${count === 1 ? noun : plural}`;
}

function threeDigits(value: number): string {
  if (value < 9.995) return value.toFixed(2);
  return value < 99.95 ? value.toFixed(1) : value.toFixed(0);
}

/** A warning, if there are any. */
export function unconfirmedLines(peers: readonly string[]): string[] {
  return peers.length === 0
    ? []
    : [`WARNING: ${peers.join(', ')} has not acknowledged yet; the agent goes on telling it for 10 minutes.`];
}

/** In one line: names, command lines and messages come from other hosts, and control characters stay out of the terminal. */
export function plainText(text: string): string {
  return text.replace(/\p{Cc}+/gu, ' ').trim();
}
