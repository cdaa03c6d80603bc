import { expect, test } from 'vitest';
import { endedEndpoints, relayedEnds } from './forwarder.ts';
import { PROGRAM_LABELS } from './labels.ts';
import type { Cell, CellFlow } from './registry.ts';

const HOME = '10.77.1.2';
const HERE = '10.77.2.2';
const RELAYED = PROGRAM_LABELS.first;

function flowOf(changes: Partial<CellFlow> & { port?: number; label?: number; from?: string }): CellFlow {
  const { port = 51_000, label = 40_000, from = '10.77.4.2', ...rest } = changes;
  return {
    protocol: 'udp',
    local: { address: HOME, port: label - 33_000 },
    remote: { address: from, port },
    scope: 7,
    wireLocal: { address: HERE, port: label },
    localSide: 1,
    via: 0,
    path: 2,
    ...rest,
  };
}

function cellWith(flows: readonly CellFlow[]): Cell {
  return {
    id: 'c0'.repeat(16),
    name: 'cell',
    pid: 1,
    ticks: 1,
    init: undefined,
    link: undefined,
    addresses: [HOME],
    side: 1,
    labels: [],
    flows,
    peers: [],
  };
}

test('a UDP socket is gone for a peer with its last flow, and each peer is told once', () => {
  const [first, second] = [flowOf({ port: 1 }), flowOf({ port: 2 })];
  const elsewhere = flowOf({ from: '10.77.3.2' });
  const other = flowOf({ label: 40_001 });
  const cell = cellWith([first, second, elsewhere, other]);
  expect(endedEndpoints(cell, [first])).toEqual([]);
  expect(endedEndpoints(cell, [other])).toEqual([other]);
  expect(endedEndpoints(cell, [first, second, elsewhere])).toEqual([second, elsewhere]);
});

test('of TCP both ends know', () => {
  const flow = flowOf({ protocol: 'tcp' });
  expect(endedEndpoints(cellWith([flow]), [flow])).toEqual([]);
});

test('a relay hears of a port when its last flow has ended; what no relay has it does not hear of', () => {
  const [first, second] = [40_000, 40_001].map((label) => flowOf({ from: HOME, port: RELAYED, label }));
  const direct = flowOf({});
  if (first === undefined || second === undefined) throw new RangeError('two flows');
  const cell = cellWith([first, second, direct]);
  expect(relayedEnds(cell, [first, direct])).toEqual([]);
  expect(relayedEnds(cell, [first, second])).toEqual([first, second]);
});
