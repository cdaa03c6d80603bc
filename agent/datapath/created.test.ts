import { expect, test } from 'vitest';
import { flowKey } from '../address.ts';
import {
  adoptCreated,
  belongsTo,
  freeNumber,
  idleFlows,
  newLimits,
  orphans,
  unusedLabels,
} from './created.ts';
import { encodeEgressKey, encodeEgressValue, encodeIngress, encodeTuple, LAYOUT } from './layout.ts';
import type { FlowEntry } from './model.ts';
import type { NumberedRule } from './rules.ts';
import { createTable, keyOf, putFlow, wiresOf } from './table.ts';

const NONE: ReadonlySet<string> = new Set();

test('created flows come into the mirror, others do not', () => {
  const table = createTable();
  adoptCreated(table, [created(1), agents(2)], NONE);
  expect([...table.flows.values()]).toEqual([created(1)]);
});

test('a flow that the agent has entered, or has changed meanwhile, is not taken over', () => {
  const table = createTable([agents(1)]);
  adoptCreated(table, [created(1), created(2)], new Set([keyOf(created(2))]));
  expect([...table.flows.values()]).toEqual([agents(1)]);
});

test('a flow that was renewed has its new wire tuple only', () => {
  const table = createTable([created(1, 46_000)]);
  adoptCreated(table, [created(1, 46_001)], NONE);
  expect([...table.flows.values()]).toEqual([created(1, 46_001)]);
  expect(table.wires.size).toBe(1);
  expect(orphans(table, [created(1, 46_000), created(1, 46_001)].map(wayIn))).toEqual([
    wayIn(created(1, 46_000)).key,
  ]);
});

test('what the agent enters in its place deletes the way in of the created flow', () => {
  const table = createTable();
  adoptCreated(table, [created(1, 46_000)], NONE);
  const changes = putFlow(table, agents(1, 40_001));
  expect(changes.at(-1)).toEqual({ map: 'ingress', key: wayIn(created(1, 46_000)).key });
});

test("a way in that is let in on is no orphan, and once a flow has it again it is that one's", () => {
  const table = createTable();
  const [before, after] = [agents(1, 40_000), agents(1, 40_001)];
  putFlow(table, after);
  for (const [wire] of wiresOf(before)) table.former.add(flowKey(wire));
  expect(orphans(table, [wayIn(before), wayIn(after)])).toEqual([]);
  putFlow(table, before);
  expect(table.former.size).toBe(0);
  putFlow(table, after);
  expect(orphans(table, [wayIn(before), wayIn(after)])).toEqual([wayIn(before).key]);
});

test('a label is unused when its endpoint has no flow', () => {
  const { protocol, local, scope } = created(1);
  const label = { protocol, local, scope, port: 46_000 };
  expect(unusedLabels(createTable([created(1)]), [label])).toEqual([]);
  expect(unusedLabels(createTable(), [label])).toEqual([label]);
  expect(unusedLabels(createTable([{ ...created(1), scope: 8 }]), [label])).toEqual([label]);
});

test('a limit leaves room for as many flows as are gone; it wraps around as the count does', () => {
  const rule: NumberedRule = {
    rule: {
      kind: 'accept',
      protocol: 'tcp',
      wire: { address: '10.77.2.2', port: 80 },
      local: { address: '10.77.1.2', port: 80 },
      localSide: 0,
      scope: 7,
      flowsMax: 10,
    },
    number: 3,
    limit: 10,
  };
  const table = createTable([created(1), created(2)]);
  expect(newLimits(table, [rule], [0, 0, 0, 2])).toEqual([]);
  expect(newLimits(table, [rule], [0, 0, 0, 5])).toEqual([{ ...rule, limit: 13 }]);
  expect(newLimits(table, [rule], [0, 0, 0, 0xffff_ffff])).toEqual([{ ...rule, limit: 7 }]);
});

test('numbers of rules that are there, and of flows whose rule is gone, are not given again', () => {
  expect(freeNumber(createTable(), [])).toBe(1);
  expect(freeNumber(createTable([{ ...created(1), rule: 1 }]), [])).toBe(2);
});

test('a flow of UDP is idle once neither way has been used for so long; others are not looked at', () => {
  const udp: FlowEntry = { ...created(1), protocol: 'udp' };
  const element = (flow: FlowEntry, usedIn: number, usedOut: number) => {
    const [wayOut, inValue] = [encodeEgressValue(flow), encodeIngress(flow, 0)];
    new DataView(wayOut.buffer).setUint32(LAYOUT.egress_value.used, usedOut, true);
    new DataView(inValue.buffer).setUint32(LAYOUT.ingress_value.used, usedIn, true);
    return {
      egress: [{ key: encodeEgressKey(flow), values: [wayOut] }],
      ingress: [{ ...wayIn(flow), values: [inValue] }],
    };
  };
  const now = 1_000n << 30n;
  const isIdle = (flow: FlowEntry, usedIn: number, usedOut: number) => {
    const { egress, ingress } = element(flow, usedIn, usedOut);
    return idleFlows(egress, ingress, 10_000, now).length === 1;
  };
  expect([isIdle(udp, 980, 980), isIdle(udp, 995, 980), isIdle(udp, 980, 995)]).toEqual([true, false, false]);
  expect(isIdle({ ...agents(1), protocol: 'udp' }, 980, 980)).toBe(false);
  expect(isIdle(created(1), 0, 0)).toBe(false);
});

test('by side and by scope', () => {
  const flow = { ...created(1), remoteSide: 9 };
  expect([{ side: 4 }, { side: 9 }, { scope: 7 }].map((owner) => belongsTo(owner)(flow))).toEqual([
    true,
    true,
    true,
  ]);
  expect(belongsTo({ side: 7 })(flow)).toBe(false);
});

function agents(port: number, label = 40_000): FlowEntry {
  return {
    protocol: 'tcp',
    local: { address: '10.77.1.2', port },
    remote: { address: '10.77.4.2', port: 3306 },
    wireLocal: { address: '10.77.2.2', port: label + port },
    wireRemote: [{ endpoint: { address: '10.77.4.2', port: 3306 }, ifindex: 2 }, undefined],
    localSide: 4,
    remoteSide: 0,
    scope: 7,
    via: 0,
  };
}

function created(port: number, label?: number): FlowEntry {
  return { ...agents(port, label), rule: 3 };
}

function wayIn(flow: FlowEntry) {
  const key = encodeTuple({ protocol: flow.protocol, local: flow.wireLocal, remote: flow.remote });
  return { key, values: [] };
}
