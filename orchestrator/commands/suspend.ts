/** `osmosis suspend` */
import { EXIT_STATUS } from '../../agent/error.ts';
import type { UdpPolicy } from '../../agent/wire/h2o-layout.ts';
import { displayed } from '../display/display.ts';
import { bytesText, countText, durationText, unconfirmedLines } from '../display/format.ts';
import { planText } from '../display/plan.ts';
import { checkSuspensionPlan, makeSuspensionPlan } from '../plan.ts';
import { refuseTaken, withNewSecret } from '../stored/new-file.ts';
import type { SecretOptions } from '../stored/secret.ts';
import { SUSPENSION_PHASES, type SuspensionResult, suspend } from '../suspend.ts';
import { type HostOptions, printJson, withHosts } from './hosts.ts';
import { learnMsOf, openHost } from './migrate.ts';

export type SuspendOptions = HostOptions &
  SecretOptions & {
    readonly from: string;
    readonly to: string;
    readonly name?: string;
    readonly dropLegacy?: boolean;
    readonly udp: UdpPolicy;
    /** Seconds. */
    readonly learn?: number;
    readonly dryRun: boolean;
    readonly json?: boolean;
  };

export async function runSuspend(target: string, options: SuspendOptions): Promise<void> {
  const { to: file, name, json = false } = options;
  const learnMs = learnMsOf(options);
  const legacy = options.dropLegacy ? 'drop' : 'refuse';
  await refuseTaken(file);
  await withHosts(options, async (hosts, signal) => {
    const source = await openHost(hosts, options.from);
    if (options.dryRun) {
      const { plan } = await makeSuspensionPlan(target, name, source.control, file, { signal, learnMs });
      if (json) printJson({ ok: true, dry_run: true, plan });
      else process.stdout.write(planText(plan));
      return checkSuspensionPlan(plan, legacy);
    }
    const { udp } = options;
    const result = await withNewSecret(file, options, (secret) =>
      displayed({ json, phases: SUSPENSION_PHASES }, (emit) =>
        suspend({ target, name, legacy, learnMs, udp, file, secret, source, signal, emit }),
      ),
    );
    if (json) printJson(result);
    else process.stdout.write(suspendedText(result));
    if (result.unconfirmed.length > 0) process.exitCode = EXIT_STATUS.UNCONFIRMED;
  });
}

/** Lines, each with its newline. */
export function suspendedText({
  cell,
  file,
  flows,
  frozen_ms,
  bytes,
  unconfirmed,
}: SuspensionResult): string {
  const lines = [
    `Suspended: ${cell} is in ${file} (${bytesText(bytes)}, written ${durationText(frozen_ms)} after it was frozen).`,
    `${countText(flows.held, 'connection')} ${flows.held === 1 ? 'waits' : 'wait'}. Keep the key apart from the file; osmosis resume brings it back.`,
    ...(flows.lost === 0
      ? []
      : [`WARNING: ${countText(flows.lost, 'connection')} of peers without an agent lost.`]),
    ...unconfirmedLines(unconfirmed),
  ];
  return lines.map((line) => `${line}\n`).join('');
}
