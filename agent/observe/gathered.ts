/** What of an agent's state is worth a metric, as families. Pure, but for `lookedUp`. */
import { statfsSync } from 'node:fs';
import { lstat, readdir } from 'node:fs/promises';
import { join } from 'node:path';

import { LABELS_MAX, type Labels } from '../cell/labels.ts';
import type { Cell } from '../cell/registry.ts';
import type { AgentContext } from '../context.ts';
import type { RemoteCellFact } from '../control/protocol.ts';
import { COUNTERS, type Counters } from '../datapath/model.ts';
import { messageOf } from '../error.ts';
import { DROP_REASONS, MESSAGE_TYPES } from '../wire/h2o-layout.ts';
import { sharedSecretCount } from '../wire/h2o-session.ts';
import { ROLES } from './journal.ts';
import type { Family, Sample } from './metrics.ts';

/** Files of images whose sizes are added up; an image of 8,000 connections has 8,016. */
const IMAGE_FILES_MAX = 20_000;
/** bpftool answers within milliseconds; a host on which it does not has other worries than this metric. */
const DATAPATH_MS_MAX = 3_000;

export type Facts = {
  readonly cells: readonly Cell[];
  readonly remote: readonly RemoteCellFact[];
  readonly active: Readonly<Record<(typeof ROLES)[number], number>>;
  readonly h2o: {
    readonly sentOf: ReadonlyMap<string, number>;
    readonly receivedOf: ReadonlyMap<string, number>;
    readonly drops: ReadonlyMap<string, number>;
    readonly shared_secrets: number;
  };
  readonly labels: number;
  readonly cordoned: boolean;
  /** Undefined where no program is loaded. */
  readonly datapath: Counters | undefined;
  readonly image_bytes: number;
  readonly room: { readonly size_bytes: number; readonly free_bytes: number };
  /** ms since the epoch. */
  readonly now: number;
};

const REMOTE_STATES = ['home', 'armed', 'moved', 'held'] as const;

export function familiesOf(facts: Facts): Family[] {
  return [...cellFamilies(facts), ...remoteFamilies(facts), ...h2oFamilies(facts), ...hostFamilies(facts)];
}

function cellFamilies({ cells, active, labels }: Facts): Family[] {
  const moved = cells.filter(({ link }) => link !== undefined);
  const flows = moved.flatMap((cell) => cell.flows);
  const relayed = flows.filter((flow) => flow.relayed).length;
  const peers = new Set(cells.flatMap((cell) => cell.peers.map(({ address }) => address)));
  return [
    gauge('osmosis_cells', 'Cells of this host', 'state', [
      [cells.length - moved.length, { state: 'home' }],
      [moved.length, { state: 'moved' }],
    ]),
    gauge('osmosis_flows', 'Connections of cells that have moved here, by who translates for them', 'by', [
      [flows.length - relayed, { by: 'peer' }],
      [relayed, { by: 'relay' }],
    ]),
    gauge('osmosis_peers', 'Hosts that cells of this host have keys with', undefined, [[peers.size]]),
    gauge('osmosis_published', 'Endpoints of this host at which anybody reaches its cells', undefined, [
      [cells.reduce((sum, { published = [] }) => sum + published.length, 0)],
    ]),
    gauge(
      'osmosis_migrations_active',
      'Migrations under way',
      'role',
      ROLES.map((role) => [active[role], { role }]),
    ),
    gauge('osmosis_labels', 'Labels (wire ports), of both protocols together', 'state', [
      [labels, { state: 'drawn' }],
      [2 * LABELS_MAX - labels, { state: 'free' }],
    ]),
  ];
}

function remoteFamilies({ remote, now }: Facts): Family[] {
  const flowsIn = (state: string) =>
    remote.reduce((sum, each) => sum + (each.state === state ? each.flows : 0), 0);
  const held = remote.flatMap(({ held_since }) => held_since ?? []);
  const oldest = held.length === 0 ? 0 : Math.max(0, (now - Math.min(...held)) / 1_000);
  const relayed = remote.flatMap(({ relays }) => relays).reduce((sum, { flows }) => sum + flows, 0);
  return [
    gauge(
      'osmosis_remote_cells',
      'Cells of other hosts that processes of this one talk to',
      'state',
      REMOTE_STATES.map((state) => [remote.filter((each) => each.state === state).length, { state }]),
    ),
    gauge(
      'osmosis_remote_flows',
      'Connections of this host with cells of others',
      'state',
      REMOTE_STATES.map((state) => [flowsIn(state), { state }]),
    ),
    gauge(
      'osmosis_relayed_flows',
      'Connections that this host carries on for peers without an agent: they end when it goes',
      undefined,
      [[relayed]],
    ),
    gauge(
      'osmosis_held_oldest_seconds',
      'For how long the suspended cell that has been waited for longest is away',
      undefined,
      [[oldest]],
    ),
  ];
}

function h2oFamilies({ h2o }: Facts): Family[] {
  const byName = (counts: ReadonlyMap<string, number>, table: object, label: string): Sample[] =>
    Object.keys(table).map((name) => [counts.get(name) ?? 0, { [label]: name }]);
  return [
    counter(
      'osmosis_h2o_sent_total',
      'H2O datagrams sent',
      'type',
      byName(h2o.sentOf, MESSAGE_TYPES, 'type'),
    ),
    counter(
      'osmosis_h2o_received_total',
      'H2O datagrams received that could be read',
      'type',
      byName(h2o.receivedOf, MESSAGE_TYPES, 'type'),
    ),
    counter(
      'osmosis_h2o_dropped_total',
      'Datagrams that did nothing; docs/h2o.md has the reasons',
      'reason',
      byName(h2o.drops, DROP_REASONS, 'reason'),
    ),
    counter('osmosis_h2o_shared_secrets_total', 'X25519 agreements', undefined, [[h2o.shared_secrets]]),
  ];
}

function hostFamilies({ datapath, cordoned, image_bytes, room }: Facts): Family[] {
  return [
    gauge('osmosis_datapath_loaded', '1 while the programs are loaded', undefined, [
      [datapath === undefined ? 0 : 1],
    ]),
    counter(
      'osmosis_datapath_packets_total',
      'Packets by what the programs have done; begins anew when they are loaded',
      'what',
      COUNTERS.map((what) => [datapath?.[what] ?? 0, { what }]),
    ),
    gauge('osmosis_cordoned', '1 while no cell is placed on this host', undefined, [[cordoned ? 1 : 0]]),
    gauge('osmosis_image_bytes', 'Images on tmpfs now', undefined, [[image_bytes]]),
    gauge('osmosis_room_bytes', 'The file system that images are written to', 'state', [
      [room.size_bytes - room.free_bytes, { state: 'used' }],
      [room.free_bytes, { state: 'free' }],
    ]),
  ];
}

function gauge(name: string, help: string, label: string | undefined, samples: readonly Sample[]): Family {
  return { name, help, type: 'gauge', labels: label === undefined ? [] : [label], samples };
}

function counter(name: string, help: string, label: string | undefined, samples: readonly Sample[]): Family {
  return { ...gauge(name, help, label, samples), type: 'counter' };
}

export type Looked = Pick<AgentContext, 'paths' | 'cordon' | 'datapath' | 'journal' | 'log' | 'registry'> & {
  readonly labels: Pick<Labels, 'count'>;
  readonly peerSide: Pick<AgentContext['peerSide'], 'list'>;
  readonly socket: Pick<AgentContext['socket'], 'sentOf' | 'receivedOf' | 'drops'>;
};

/** As it is now. Waits for bpftool and the file system only, and for both within bounds. */
export async function lookedUp(context: Looked): Promise<Facts> {
  const { paths, registry, peerSide, socket, labels, cordon, journal, datapath, log } = context;
  const room = statfsSync(paths.run);
  const [counters, image_bytes] = await Promise.all([
    datapath.counters(AbortSignal.timeout(DATAPATH_MS_MAX)).catch((error: unknown) => {
      log.warn({ error: messageOf(error) }, 'metrics: the counters of the datapath can not be read');
      return undefined;
    }),
    bytesBelow(`${paths.run}/images`),
  ]);
  return {
    cells: registry.all(),
    remote: peerSide.list(),
    active: { source: journal.active('source'), destination: journal.active('destination') },
    h2o: {
      sentOf: socket.sentOf,
      receivedOf: socket.receivedOf,
      drops: socket.drops,
      shared_secrets: sharedSecretCount(),
    },
    labels: labels.count,
    cordoned: cordon.record !== undefined,
    datapath: counters,
    image_bytes,
    room: { size_bytes: room.blocks * room.bsize, free_bytes: room.bavail * room.bsize },
    now: Date.now(),
  };
}

/** Of regular files, the first IMAGE_FILES_MAX of them; those that go meanwhile count nothing. */
async function bytesBelow(directory: string): Promise<number> {
  const entries = await readdir(directory, { recursive: true, withFileTypes: true }).catch(() => []);
  let bytes = 0;
  for (const entry of entries.filter((each) => each.isFile()).slice(0, IMAGE_FILES_MAX))
    bytes += (await lstat(join(entry.parentPath, entry.name)).catch(() => undefined))?.size ?? 0;
  return bytes;
}
