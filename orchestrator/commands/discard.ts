/** `osmosis discard` */
import { EXIT_STATUS } from '../../agent/error.ts';
import { confirmed } from '../confirmation.ts';
import { type DiscardResult, discard } from '../discard.ts';
import { countText, unconfirmedLines } from '../display/format.ts';
import { ImageFileReader } from '../stored/reader.ts';
import { type SecretOptions, secretFor } from '../stored/secret.ts';
import { type HostOptions, printJson, withHosts } from './hosts.ts';
import { imageFacts, sealedFacts } from './inspect.ts';
import { openHost } from './migrate.ts';

export type DiscardOptions = HostOptions &
  SecretOptions & {
    readonly on: string;
    readonly yes: boolean;
    readonly dryRun: boolean;
    readonly json?: boolean;
  };

export async function runDiscard(file: string, options: DiscardOptions): Promise<void> {
  const { json = false } = options;
  const reader = await ImageFileReader.open(file);
  try {
    const image = await reader.unlock(await secretFor(file, reader.key, options));
    const { cell, flows, peers } = reader.clear;
    const what = `${cell}, its ${countText(flows, 'connection')} with ${countText(peers, 'peer')}`;
    if (options.dryRun) {
      const plan = { ...imageFacts(reader), ...sealedFacts(image.metadata) };
      if (json) printJson({ ok: true, dry_run: true, plan });
      else process.stdout.write(`${what} would be given up for good. Nothing has been touched.\n`);
      return;
    }
    await confirmed(`${what} and the process itself in ${file} end for good.`, options);
    await withHosts(options, async (hosts, signal) => {
      const host = await openHost(hosts, options.on);
      const result = await discard({ reader, image, host, signal });
      if (json) printJson(result);
      else process.stdout.write(discardedText(result));
      if (result.unconfirmed.length > 0) process.exitCode = EXIT_STATUS.UNCONFIRMED;
    });
  } finally {
    await reader.close();
  }
}

/** Lines, each with its newline. */
export function discardedText({ cell, file, told, gone, unconfirmed }: DiscardResult): string {
  const lines = [
    `Given up: ${cell} will not come back. ${file} and its key are of no use any more: remove them.`,
    ...(told.length === 0 ? [] : [`${told.join(', ')} has ended its connections with it.`]),
    ...(gone.length === 0 ? [] : [`${gone.join(', ')} did not wait for it (any more).`]),
    ...unconfirmedLines(unconfirmed),
  ];
  return lines.map((line) => `${line}\n`).join('');
}
