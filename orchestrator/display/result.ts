/** The end of a migration in a few lines: where the process runs now, what became of its connections, what to do. */
import { endpointText } from '../../agent/address.ts';
import type { Publication } from '../../agent/cell/publication.ts';
import { PHASES, type Phase } from '../../agent/phases.ts';
import type { Synced } from '../sync/sync.ts';
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
  readonly synced?: Synced;
};

/** Lines, each with its newline. A failure is told by cli.js, which has its exit status. */
export function resultText({
  cell,
  flows,
  blackout_ms,
  phases,
  bytes,
  published = [],
  synced,
}: MigrationSuccess): string {
  const took = PHASES.flatMap((phase) => {
    const ms = phases[phase];
    return ms === undefined ? [] : [{ phase, ms }];
  });
  const total = took.reduce((sum, { ms }) => sum + ms, 0);
  const times = took.map(({ phase, ms }) => `${phase} ${durationText(ms)}`).join(', ');
  const lines = [
    `Moved: ${cell} runs at the destination. It stood still for ${durationText(blackout_ms)}.`,
    `${countText(flows.moved, 'connection')} moved${flows.relayed === 0 && flows.lost === 0 ? ', none lost' : ''}.`,
    ...(flows.relayed === 0
      ? []
      : [
          `${countText(flows.relayed, 'connection')} relayed by the source: keep that host and its agent up.`,
        ]),
    ...(flows.lost === 0 ? [] : [`WARNING: ${countText(flows.lost, 'connection')} lost.`]),
    ...published.map(({ protocol, wire }) => `Published at ${protocol} ${endpointText(wire)}.`),
    ...(synced === undefined ? [] : [syncedText(synced)]),
    `${bytesText(bytes)} of image, ${durationText(total)} in all${times === '' ? '' : ` (${times})`}.`,
  ];
  return lines.map((line) => `${line}\n`).join('');
}

function syncedText({ files, bytes, delta_bytes, delta_ms }: Synced): string {
  return (
    `${countText(files, 'file')} copied (${bytesText(bytes)}), and ${bytesText(delta_bytes)} more while it stood still, in ` +
    `${durationText(delta_ms)}. Those of the source stay there.`
  );
}
