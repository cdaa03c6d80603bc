/** One move with SSH connections of its own: sshd allows ten channels on one connection, and a drain has many moves. */
import type { Fleet } from '../fleet/fleet.ts';
import { type MigrationOptions, type MigrationResult, migrate } from '../migrate.ts';
import { type HostOptions, Hosts } from './hosts.ts';
import { openHost } from './migrate.ts';

export type Move = Omit<MigrationOptions, 'source' | 'destination'> & {
  readonly from: string;
  readonly to: string;
};

export async function moveAlone(
  options: HostOptions,
  fleet: Fleet,
  { from, to, ...migration }: Move,
): Promise<MigrationResult> {
  const hosts = new Hosts(options, fleet, migration.signal);
  try {
    const [source, destination] = await Promise.all([openHost(hosts, from), openHost(hosts, to)]);
    return await migrate({ ...migration, source, destination });
  } finally {
    await hosts.close();
  }
}
