import { expect, test } from 'vitest';
import { COUNTERS } from '../datapath/model.ts';
import { DROP_REASONS } from '../wire/h2o-layout.ts';
import { type Facts, familiesOf } from './gathered.ts';
import { Metrics } from './metrics.ts';

const flow = (relayed: boolean) => ({ relayed }) as unknown as Facts['cells'][number]['flows'][number];
const cellWith = (changes: object) =>
  ({ link: undefined, flows: [], peers: [], ...changes }) as unknown as Facts['cells'][number];
const remoteWith = (changes: object) =>
  ({ state: 'home', flows: 0, relays: [], ...changes }) as unknown as Facts['remote'][number];

function factsWith(changes: Partial<Facts> = {}): Facts {
  return {
    cells: [],
    remote: [],
    active: { source: 0, destination: 0 },
    h2o: { sentOf: new Map(), receivedOf: new Map(), drops: new Map(), shared_secrets: 0 },
    labels: 0,
    cordoned: false,
    datapath: undefined,
    image_bytes: 0,
    room: { size_bytes: 100, free_bytes: 60 },
    now: 100_000,
    ...changes,
  };
}

const textOf = (facts: Facts, metrics = new Metrics()) => metrics.text(familiesOf(facts));
const own = (text: string) => text.split('\n').filter((line) => /^osmosis_/.test(line));

test('every state of an agent is a number, with few labels', async () => {
  const text = await textOf(
    factsWith({
      cells: [
        cellWith({ peers: [{ address: '10.77.4.2' }] }),
        cellWith({
          link: { ifindex: 4 },
          flows: [flow(false), flow(false), flow(true)],
          peers: [{ address: '10.77.4.2' }, { address: '10.77.5.2' }],
          published: [{}],
        }),
      ],
      remote: [
        remoteWith({ state: 'moved', flows: 7, relays: [{ peer: '10.77.5.2', flows: 2 }] }),
        remoteWith({ state: 'held', flows: 3, held_since: 40_000 }),
      ],
      active: { source: 1, destination: 2 },
      h2o: {
        sentOf: new Map([['move', 4]]),
        receivedOf: new Map([['hello', 5]]),
        drops: new Map([['forged', 6]]),
        shared_secrets: 8,
      },
      labels: 5,
      cordoned: true,
      datapath: {
        ...Object.fromEntries(COUNTERS.map((name) => [name, 0])),
        translated_in: 12,
      } as Facts['datapath'],
      image_bytes: 4096,
    }),
  );
  for (const line of [
    'osmosis_cells{state="home"} 1',
    'osmosis_cells{state="moved"} 1',
    'osmosis_flows{by="peer"} 2',
    'osmosis_flows{by="relay"} 1',
    'osmosis_peers 2',
    'osmosis_published 1',
    'osmosis_migrations_active{role="source"} 1',
    'osmosis_migrations_active{role="destination"} 2',
    'osmosis_labels{state="drawn"} 5',
    'osmosis_remote_cells{state="moved"} 1',
    'osmosis_remote_cells{state="held"} 1',
    'osmosis_remote_flows{state="moved"} 7',
    'osmosis_relayed_flows 2',
    'osmosis_held_oldest_seconds 60',
    'osmosis_h2o_sent_total{type="move"} 4',
    'osmosis_h2o_received_total{type="hello"} 5',
    'osmosis_h2o_dropped_total{reason="forged"} 6',
    'osmosis_h2o_shared_secrets_total 8',
    'osmosis_datapath_loaded 1',
    'osmosis_datapath_packets_total{what="translated_in"} 12',
    'osmosis_cordoned 1',
    'osmosis_image_bytes 4096',
    'osmosis_room_bytes{state="used"} 40',
    'osmosis_room_bytes{state="free"} 60',
  ])
    expect(text.split('\n')).toContain(line);
});

test('is the exposition format: a help and a type a family, units in names, counters that end with _total', async () => {
  const text = await textOf(factsWith());
  const types = [...text.matchAll(/^# TYPE (osmosis_\w+) (\w+)$/gm)];
  const helps = [...text.matchAll(/^# HELP (osmosis_\w+) \S/gm)].map(([, name]) => name);
  expect(types.length).toBeGreaterThan(20);
  for (const [, name = '', type] of types) {
    expect(helps).toContain(name);
    expect(name.endsWith('_total')).toBe(type === 'counter');
    if (type === 'histogram') expect(name).toMatch(/_seconds$/);
  }
  expect(text).toMatch(/^osmosis_agent_info\{version="[^"]+",node="[^"]+"\} 1$/m);
  expect(text).toMatch(/^process_cpu_seconds_total /m);
  expect(text).toMatch(/^process_resident_memory_bytes /m);
});

test('the number of lines does not grow with cells, flows or peers', async () => {
  const one = own(await textOf(factsWith())).length;
  const many = factsWith({
    cells: Array.from({ length: 50 }, (_, index) =>
      cellWith({ link: {}, flows: Array(1_000).fill(flow(false)), peers: [{ address: `10.0.0.${index}` }] }),
    ),
    remote: Array.from({ length: 500 }, () => remoteWith({ state: 'moved', flows: 10 })),
  });
  expect(own(await textOf(many))).toHaveLength(one);
  expect(own(await textOf(factsWith())).filter((line) => line.includes('dropped_total'))).toHaveLength(
    Object.keys(DROP_REASONS).length,
  );
});

test('what is looked up is as it is now, not added to what it was', async () => {
  const metrics = new Metrics();
  const drops = new Map([['forged', 6]]);
  const h2o = { ...factsWith().h2o, drops };
  await textOf(factsWith({ h2o }), metrics);
  drops.set('forged', 7);
  expect(await textOf(factsWith({ h2o }), metrics)).toContain(
    'osmosis_h2o_dropped_total{reason="forged"} 7\n',
  );
});

test('what is counted as it happens is added up', async () => {
  const metrics = new Metrics();
  metrics.ended({ role: 'source', kind: 'move', outcome: 'committed', code: undefined });
  metrics.ended({ role: 'source', kind: 'move', outcome: 'committed', code: undefined });
  metrics.ended({ role: 'destination', kind: 'resume', outcome: 'refused', code: 'HOST_CORDONED' });
  metrics.step('source', 'freeze', 0.04);
  metrics.frozen('committed', 0.2);
  metrics.woken(0.1);
  metrics.turned(0.003);
  metrics.image('source', 1_000);
  const text = await textOf(factsWith(), metrics);
  for (const line of [
    'osmosis_migrations_total{role="source",kind="move",outcome="committed",code="none"} 2',
    'osmosis_migrations_total{role="destination",kind="resume",outcome="refused",code="HOST_CORDONED"} 1',
    'osmosis_migration_step_seconds_bucket{le="0.05",role="source",step="freeze"} 1',
    'osmosis_frozen_seconds_count{outcome="committed"} 1',
    'osmosis_restored_seconds_sum 0.1',
    'osmosis_peer_acknowledged_seconds_bucket{le="0.005"} 1',
    'osmosis_image_bytes_total{role="source"} 1000',
  ])
    expect(text.split('\n')).toContain(line);
});
