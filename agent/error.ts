/**
 * The one error class. Every failure that a person or a program can meet has a code here, and every code has one
 * process exit status; docs/errors.md lists them with cause and remedy.
 */
import type { Phase } from './phases.ts';

/** Code → process exit status. Statuses 64 to 78 follow sysexits(3) where one fits; the rest are ours (10 to 50). */
export const EXIT_STATUS = {
  INTERNAL: 70,
  USAGE: 64,
  INTERRUPTED: 130,
  // Reaching a host and its agent.
  SSH_UNREACHABLE: 10,
  SSH_AUTH: 11,
  SSH_HOST_KEY: 12,
  SSH_CONFIG: 13,
  FLEET_FILE: 17,
  AGENT_UNREACHABLE: 14,
  AGENT_PROTOCOL: 15,
  TIMEOUT: 16,
  // What hosts need, and how Osmosis gets there.
  HOST_UNFIT: 18,
  INSTALL: 19,
  HOST_IN_USE: 29,
  // Plan: nothing has been touched.
  SAME_HOST: 20,
  NO_SUCH_TARGET: 21,
  BUSY: 22,
  PREFLIGHT: 23,
  LEGACY_PEERS: 24,
  NO_ROOM: 25,
  LABELS_EXHAUSTED: 26,
  HOST_CORDONED: 27,
  PEER_UNTRUSTED: 28,
  SYNC_CHANGED: 50,
  // Prepare up to commit: undone, the process runs at the source.
  PEER_SILENT: 30,
  FLOWS_CHANGED: 31,
  DUMP_FAILED: 32,
  IMAGE_CORRUPT: 33,
  RESTORE_FAILED: 34,
  ABORTED: 35,
  TARGET_EXITED: 36,
  DATAPATH: 37,
  CELL: 38,
  SYNC_FAILED: 39,
  // After commit: the process runs at the destination, the agents finish by themselves.
  UNCONFIRMED: 40,
  // Stored images: the file owns the process, and is as it was.
  IMAGE_KEY: 41,
  IMAGE_FORMAT: 42,
  IMAGE_USED: 43,
  IMAGE_STALE: 44,
  IMAGE_FILE: 45,
  // A drain: each cell is at one host, as the table says.
  DRAIN_LEFT: 46,
  DRAIN_DEADLINE: 47,
  DRAIN_REFUSED: 48,
  // Nothing was touched.
  NO_TERMINAL: 49,
} as const;

export type ErrorCode = keyof typeof EXIT_STATUS;
export type Owner = 'source' | 'destination' | 'file';

export type ErrorDetails = {
  phase?: Phase;
  cause?: unknown;
  /** Who owns the process after this failure, where a migration is under way. */
  owner?: Owner;
  /** What else went wrong while undoing; joins the first error and never hides it. */
  cleanup?: readonly string[];
};

/** What happened, what state each host is in and what to do next, in `message`. */
export class OsmosisError extends Error {
  override readonly name = 'OsmosisError';
  readonly code: ErrorCode;
  readonly phase: Phase | undefined;
  readonly owner: Owner | undefined;
  readonly cleanup: readonly string[];

  constructor(code: ErrorCode, message: string, details: ErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.code = code;
    this.phase = details.phase;
    this.owner = details.owner;
    this.cleanup = details.cleanup ?? [];
  }

  get exitStatus(): number {
    return EXIT_STATUS[this.code];
  }
}

export function isErrorCode(value: unknown): value is ErrorCode {
  return typeof value === 'string' && Object.hasOwn(EXIT_STATUS, value);
}

/** Anything thrown, as an OsmosisError; a stranger becomes `fallback` with itself as the cause. */
export function asOsmosisError(thrown: unknown, fallback: ErrorCode = 'INTERNAL'): OsmosisError {
  if (thrown instanceof OsmosisError) return thrown;
  return new OsmosisError(fallback, messageOf(thrown), { cause: thrown });
}

export function messageOf(thrown: unknown): string {
  return thrown instanceof Error ? thrown.message : String(thrown);
}
