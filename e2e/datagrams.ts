/** What a client of datagrams has to see around a move. */
import { expect } from 'vitest';
import type { DatagramSummary } from '../fixtures/load/report.ts';

/** Nothing twice, nothing of others, nobody refused, and every request answered. */
export function expectAllAnswered(summary: DatagramSummary): void {
  expect(summary, summary.faults.join('\n')).toMatchObject({
    ok: true,
    duplicated: 0,
    misrouted: 0,
    refused: 0,
    unanswered: 0,
  });
}
