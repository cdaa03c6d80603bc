/** One move with SSH connections of its own: sshd allows ten channels on one connection, and a drain has many moves. */
import type { Fleet } from '../fleet/fleet.ts';
import { type MigrationOptions, type MigrationResult, migrate } from '../migrate.ts';
import type { SyncRequest } from '../sync/sync.ts';
import { type HostOptions, usingHosts } from './hosts.ts';
import { openChannels, openHost } from './migrate.ts';

export type Move = Omit<MigrationOptions, 'source' | 'destination' | 'sync'> & {
  /** What the destination lacks of files is copied. */
  readonly files?: SyncRequest | undefined;
  readonly from: string;
  readonly to: string;
};

export async function moveAlone(
  options: HostOptions,
  fleet: Fleet,
  { from, to, files, ...migration }: Move,
): Promise<MigrationResult> {
  return await usingHosts(options, fleet, migration.signal, async (hosts) => {
    const [source, destination] = await Promise.all([openHost(hosts, from), openHost(hosts, to)]);
    const sync = files && { request: files, channels: await openChannels(hosts, { from, to }) };
    return await migrate({ ...migration, sync, source, destination });
  });
}
