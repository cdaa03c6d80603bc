import type { RemoteCellFact } from '../control/protocol.ts';
import { relaysOf } from './peer-flows.ts';
import { type PeerRecord, placeOf } from './peer-records.ts';

/** What `osmosis ps` and `osmosis datapath` say of a cell of another host. */
export function remoteCellFact(record: PeerRecord): RemoteCellFact {
  const { cell, state, flows, armedAt, heldAt, plainAt, waits, datagrams } = record;
  const epoch = state?.pair.epoch ?? 0;
  const there = epoch > 0 || cell === '' ? 'moved' : 'home';
  const away = heldAt !== undefined ? 'held' : armedAt !== undefined ? 'armed' : there;
  return {
    cell,
    epoch,
    flows: flows.size,
    state: plainAt === undefined ? away : 'home',
    wire: [...new Set([...flows.values()].map((flow) => placeOf(flow, record)?.endpoint.address ?? ''))],
    ...(heldAt !== undefined && { held_since: heldAt }),
    relays: relaysOf(record),
    ...(waits && { datagrams_wait: true }),
    ...(datagrams && { datagrams: { ...datagrams, lost: datagrams.came - datagrams.left } }),
    ...(record.follow && { follow: { ...record.follow, labels: [...record.follow.labels] } }),
  };
}
