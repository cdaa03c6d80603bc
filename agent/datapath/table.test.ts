import { expect, test } from 'vitest';
import { encodeTuple } from './layout.ts';
import { type FlowEntry, RELAY, type WireSlot } from './model.ts';
import { type Change, createTable, putFlow, removeFlow } from './table.ts';

const HOME: WireSlot = { endpoint: { address: '10.77.1.2', port: 7000 }, ifindex: 2 };
const AT_B: WireSlot = { endpoint: { address: '10.77.2.2', port: 40001 }, ifindex: 2 };
const AT_C: WireSlot = { endpoint: { address: '10.77.3.2', port: 40007 }, ifindex: 2 };

test('a flow gets a way in for each filled slot, and its way out after those', () => {
  expect(summary(putFlow(createTable(), flow(HOME, AT_B)))).toEqual(['+ingress', '+ingress', '+egress']);
  expect(summary(putFlow(createTable(), flow(HOME)))).toEqual(['+ingress', '+egress']);
});

test('a slot that gets another endpoint leaves no way in behind', () => {
  const table = createTable([flow(HOME, AT_B)]);
  const changes = putFlow(table, flow(AT_C, AT_B));
  expect(summary(changes)).toEqual(['+ingress', '+ingress', '+egress', '-ingress']);
  expect(changes.at(-1)?.key).toEqual(wireKey(HOME));
  expect(table.wires.size).toBe(2);
});

test('slots that change places keep their ways in', () => {
  const table = createTable([flow(HOME, AT_B)]);
  expect(summary(putFlow(table, flow(AT_B, HOME)))).toEqual(['+ingress', '+ingress', '+egress']);
});

test('removing takes everything out, and twice is no error', () => {
  const table = createTable();
  putFlow(table, flow(HOME, AT_B));
  expect(summary(removeFlow(table, flow(HOME)))).toEqual(['-egress', '-ingress', '-ingress']);
  expect(removeFlow(table, flow(HOME))).toEqual([]);
  expect([table.flows.size, table.wires.size]).toEqual([0, 0]);
});

test('the same virtual endpoints in the host and in a cell are two flows', () => {
  const table = createTable();
  putFlow(table, flow(HOME));
  putFlow(table, { ...flow(AT_B), scope: 5 });
  expect(table.flows.size).toBe(2);
});

test('a wire tuple belongs to one flow; a refusal changes nothing', () => {
  const table = createTable([flow(HOME)]);
  const other = { ...flow(HOME), remote: { address: '10.77.9.9', port: 1 } };
  expect(() => putFlow(table, other)).toThrow('belongs to flow');
  expect([table.flows.size, table.wires.size]).toEqual([1, 1]);
});

test.each([
  ['no slot', flow(undefined)],
  ['twice the same slot', flow(HOME, HOME)],
  ['two families', flow({ endpoint: { address: 'fd00::1', port: 7000 }, ifindex: 2 })],
  ['port 0', flow({ endpoint: { address: '10.77.1.2', port: 0 }, ifindex: 2 })],
])('refuses %s', (_, entry) => {
  const table = createTable();
  expect(() => putFlow(table, entry)).toThrow('flow tcp 10.77.4.2:51000 10.77.1.2:7000');
  expect(table.flows.size).toBe(0);
});

const RELAYED: FlowEntry = {
  ...flow(AT_B),
  wireLocal: { address: '10.77.1.2', port: 40101 },
  scope: RELAY,
  via: 3,
};
const HERE: FlowEntry = {
  ...flow({ endpoint: RELAYED.local, ifindex: 3 }),
  local: RELAYED.remote,
  remote: RELAYED.local,
  wireLocal: RELAYED.remote,
};

test('a relayed flow has a way in for the peer too, and one that leaves its home hands that over', () => {
  const table = createTable();
  expect(summary(putFlow(table, HERE))).toEqual(['+ingress', '+egress']);
  expect(summary(putFlow(table, RELAYED))).toEqual(['+relays', '+ingress', '+ingress', '+egress']);
  expect(summary(putFlow(table, RELAYED))).toEqual(['+ingress', '+ingress', '+egress']);
  // What was handed over stays, also for an agent that has read both from the kernel.
  for (const each of [table, createTable([RELAYED, HERE])]) {
    expect(summary(removeFlow(each, HERE))).toEqual(['-egress']);
    expect(summary(removeFlow(each, RELAYED))).toEqual(['-egress', '-ingress', '-ingress', '-relays']);
  }
});

test('a flow that is back home takes its way in back', () => {
  const table = createTable([RELAYED]);
  putFlow(table, HERE);
  expect(summary(removeFlow(table, RELAYED))).toEqual(['-egress', '-ingress', '-relays']);
  expect(summary(removeFlow(table, HERE))).toEqual(['-egress', '-ingress']);
});

test('two relays of the same flow are refused, and one to nowhere', () => {
  const table = createTable([RELAYED]);
  const other = { ...RELAYED, local: { address: '10.77.5.2', port: 1 } };
  expect(() => putFlow(table, other)).toThrow('belongs to flow');
  expect(() => putFlow(createTable(), { ...RELAYED, via: 0 })).toThrow('relayed to nowhere');
});

function flow(first: WireSlot | undefined, second?: WireSlot): FlowEntry {
  const local = { address: '10.77.4.2', port: 51000 };
  const ids = { localSide: 0, remoteSide: 1, scope: 0, via: 0 };
  return {
    protocol: 'tcp',
    local,
    remote: HOME.endpoint,
    wireLocal: local,
    wireRemote: [first, second],
    ...ids,
  };
}

function wireKey({ endpoint }: WireSlot): Uint8Array {
  return encodeTuple({ protocol: 'tcp', local: flow(HOME).local, remote: endpoint });
}

function summary(changes: readonly Change[]): string[] {
  return changes.map(({ map, value }) => `${value === undefined ? '-' : '+'}${map}`);
}
