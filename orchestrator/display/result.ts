/** The end of a migration in a few lines: where the process runs now, what became of its connections, what to do. */
import { endpointText } from '../../agent/address.ts';
import type { Publication } from '../../agent/cell/publication.ts';
import type { ErrorCode, Owner } from '../../agent/error.ts';
import { PHASE_TABLE, PHASES, type Phase } from '../../agent/phases.ts';
import { bytesText, countText, durationText } from './format.ts';

/** What `--json` prints. Times in milliseconds. */
export type MigrationSuccess = {
  readonly ok: true;
  readonly cell: string;
  readonly flows: { readonly moved: number; readonly relayed: number; readonly lost: number };
  readonly blackout_ms: number;
  readonly phases: Readonly<Partial<Record<Phase, number>>>;
  /** Image size. */
  readonly bytes: number;
  readonly published?: readonly Publication[];
};
export type MigrationFailure = {
  readonly ok: false;
  readonly code: ErrorCode;
  readonly phase?: Phase | undefined;
  readonly owner?: Owner | undefined;
  readonly message: string;
};
export type MigrationResult = MigrationSuccess | MigrationFailure;

/** Lines, each with its newline. */
export function resultText(result: MigrationResult): string {
  const lines = result.ok ? successLines(result) : failureLines(result);
  return lines.map((line) => `${line}\n`).join('');
}

function successLines({
  cell,
  flows,
  blackout_ms,
  phases,
  bytes,
  published = [],
}: MigrationSuccess): string[] {
  const took = PHASES.flatMap((phase) => {
    const ms = phases[phase];
    return ms === undefined ? [] : [{ phase, ms }];
  });
  const total = took.reduce((sum, { ms }) => sum + ms, 0);
  const times = took.map(({ phase, ms }) => `${phase} ${durationText(ms)}`).join(', ');
  return [
    `Moved: ${cell} runs at the destination. It stood still for ${durationText(blackout_ms)}.`,
    `${countText(flows.moved, 'connection')} moved${flows.relayed === 0 && flows.lost === 0 ? ', none lost' : ''}.`,
    ...(flows.relayed === 0
      ? []
      : [
          `${countText(flows.relayed, 'connection')} relayed by the source: keep that host and its agent up.`,
        ]),
    ...(flows.lost === 0 ? [] : [`WARNING: ${countText(flows.lost, 'connection')} lost.`]),
    ...published.map(({ protocol, wire }) => `Published at ${protocol} ${endpointText(wire)}.`),
    `${bytesText(bytes)} of image, ${durationText(total)} in all${times === '' ? '' : ` (${times})`}.`,
  ];
}

function failureLines({ code, phase, owner, message }: MigrationFailure): string[] {
  const where = phase === undefined ? code : `${code}, in phase ${phase}`;
  const title = owner === 'destination' ? 'Moved, but not finished' : 'Not moved';
  return [`${title} (${where}): ${message}`, ownerLine(phase, owner)];
}

function ownerLine(phase: Phase | undefined, owner: Owner | undefined): string {
  if (owner === 'destination') {
    return 'The process runs at the destination; the agents finish by themselves. Watch it: osmosis status';
  }
  const recovery = phase === undefined ? 'refuse' : PHASE_TABLE[phase].recovery;
  if (recovery === 'refuse') return 'Nothing was touched: the process runs at the source as before.';
  if (owner === 'source') return 'It was undone: the process runs at the source, with its connections.';
  return 'Which host owns the process is not known here; exactly one does. Ask both agents: osmosis status';
}
