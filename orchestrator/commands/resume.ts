/** `osmosis resume` */
import { EXIT_STATUS } from '../../agent/error.ts';
import { displayed } from '../display/display.ts';
import { countText, durationText, unconfirmedLines } from '../display/format.ts';
import { refuseFailed } from '../plan.ts';
import { publishSpec } from '../publish-spec.ts';
import { hostChecks } from '../resumable.ts';
import { RESUMPTION_PHASES, type ResumptionResult, resume } from '../resume.ts';
import { ImageFileReader } from '../stored/reader.ts';
import { type SecretOptions, secretFor } from '../stored/secret.ts';
import { type HostOptions, printJson, withHosts } from './hosts.ts';
import { imageFacts, sealedFacts } from './inspect.ts';
import { openHost } from './migrate.ts';

export type ResumeOptions = HostOptions &
  SecretOptions & {
    readonly on: string;
    readonly dropGone?: boolean;
    readonly again?: boolean;
    readonly publish?: readonly string[];
    readonly dryRun: boolean;
    readonly json?: boolean;
  };

export async function runResume(file: string, options: ResumeOptions): Promise<void> {
  const { dropGone = false, again = false, json = false } = options;
  const publish = options.publish?.map(publishSpec);
  const reader = await ImageFileReader.open(file);
  try {
    const image = await reader.unlock(await secretFor(file, reader.key, options));
    await withHosts(options, async (hosts, signal) => {
      const host = await openHost(hosts, options.on);
      if (options.dryRun) {
        const { checks } = await hostChecks({ image, host, publish }, signal);
        const plan = { ...imageFacts(reader), ...sealedFacts(image.metadata), to: host.control.host, checks };
        if (json) printJson({ ok: true, dry_run: true, plan });
        else process.stdout.write(dryText(reader.clear.cell, host.control.host, checks));
        return refuseFailed(checks, 'resumed');
      }
      const result = await displayed({ json, phases: RESUMPTION_PHASES }, (emit) =>
        resume({ reader, image, host, dropGone, again, publish, signal, emit }),
      );
      if (json) printJson(result);
      else process.stdout.write(resumedText(result));
      if (result.unconfirmed.length > 0) process.exitCode = EXIT_STATUS.UNCONFIRMED;
    });
  } finally {
    await reader.close();
  }
}

type Checks = Awaited<ReturnType<typeof hostChecks>>['checks'];

function dryText(cell: string, host: string, checks: Checks): string {
  const rows = checks.map(({ name, ok, message }) => `  ${ok ? 'ok  ' : 'FAIL'} ${name}: ${message}\n`);
  const asked =
    'Whether its peers still wait for it is asked when it is resumed. Nothing has been touched.\n';
  return `${cell}: would be resumed on ${host}\n${rows.join('')}${asked}`;
}

/** Lines, each with its newline. */
export function resumedText({ cell, flows, away_ms, pid, unconfirmed }: ResumptionResult): string {
  const lines = [
    `Resumed: ${cell} runs again, as process ${pid}. It was away for ${durationText(away_ms)}.`,
    `${countText(flows.moved + flows.relayed, 'connection')} ${flows.moved + flows.relayed === 1 ? 'goes' : 'go'} on.`,
    ...(flows.lost === 0 ? [] : [`WARNING: ${countText(flows.lost, 'connection')} lost.`]),
    ...unconfirmedLines(unconfirmed),
  ];
  return lines.map((line) => `${line}\n`).join('');
}
