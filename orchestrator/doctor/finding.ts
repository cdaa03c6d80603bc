/** What doctor says of one thing. */

const STATUSES = ['ok', 'note', 'warn', 'fail'] as const;
/**
 * `note`: good to know. `warn`: something of Osmosis will not work there, or for some processes. `fail`: the host can't take
 * part, or not safely.
 */
export type Status = (typeof STATUSES)[number];

export type Finding = {
  /** Stable; docs/doctor.md lists them. */
  readonly check: string;
  readonly status: Status;
  /** What was found. */
  readonly what: string;
  /** What it is needed for; not said where all is well. */
  readonly why?: string;
  /** A command to type at the host, or what else to do. */
  readonly remedy?: string;
};

export function ok(check: string, what: string): Finding {
  return { check, status: 'ok', what };
}

export function note(check: string, what: string, why?: string): Finding {
  return { check, status: 'note', what, ...(why === undefined ? {} : { why }) };
}

export function warn(check: string, what: string, why: string, remedy: string): Finding {
  return { check, status: 'warn', what, why, remedy };
}

export function fail(check: string, what: string, why: string, remedy: string): Finding {
  return { check, status: 'fail', what, why, remedy };
}

export function hasFailed(findings: readonly Finding[]): boolean {
  return findings.some(({ status }) => status === 'fail');
}
