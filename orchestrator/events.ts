/** What a migration tells while it runs; the displays and the library's callers read the same events. */
import type { Phase } from '../agent/phases.ts';

export type MigrationEvent =
  | {
      readonly event: 'phase';
      readonly phase: Phase;
      readonly state: 'start' | 'done' | 'failed';
      readonly ms?: number;
    }
  /** Image bytes so far, and the rate of late. */
  | { readonly event: 'progress'; readonly bytes: number; readonly bytes_per_s: number }
  /** Bytes of files so far in this pass, compressed, and how much there is at most. */
  | {
      readonly event: 'files';
      readonly bytes: number;
      readonly bytes_per_s: number;
      readonly total_bytes?: number;
    }
  | { readonly event: 'note'; readonly level: 'info' | 'warn'; readonly message: string }
  | { readonly event: 'blackout'; readonly ms: number };
