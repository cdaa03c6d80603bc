import { expect, test } from 'vitest';
import type { CellFact } from '../../agent/control/protocol.ts';
import { hostFactsWith } from '../../agent/test-support.ts';
import { type HostStatus, statusText } from './ps.ts';

const virtual = { address: '10.77.1.2', port: 7000 };
const wire = { address: '10.77.2.2', port: 40_000 };

function flowOf(port: number, address = '10.77.4.2'): CellFact['flows'][number] {
  return { protocol: 'tcp', virtual_local: virtual, virtual_remote: { address, port }, wire_local: wire };
}

function statusWith(changes: Partial<HostStatus['status']>): HostStatus {
  const status = { version: '0.1.0', host: hostFactsWith(), cells: [], remote_cells: [], ...changes };
  return { name: 'alpha', status };
}

const cell: CellFact = {
  id: 'ab'.repeat(16),
  name: 'redis',
  pid: 12,
  placement: {},
  command: 'redis-server *:7000',
  home: false,
  flows: [flowOf(1), flowOf(2), flowOf(3, '10.77.5.2')],
  labels: [],
  peers: [],
};

test('a host without cells is one line', () => {
  expect(statusText(statusWith({}))).toBe(
    'alpha (agent 0.1.0): 0 cells here, 0 cells elsewhere with connections here',
  );
});

test('what a process calls itself does nothing to the terminal', () => {
  const text = statusText(
    statusWith({ cells: [{ ...cell, command: 'evil\u001b[2J\nroot  pid 1', flows: [] }] }),
  );
  expect(text.split('\n').slice(1)).toEqual(['  redis  pid 12  moved in  0 flows  evil [2J root  pid 1']);
});

test('a cell has a line, and one for each endpoint and peer', () => {
  expect(
    statusText(statusWith({ cells: [cell, { ...cell, name: 'web', home: true, flows: [] }] })).split('\n'),
  ).toEqual([
    expect.stringContaining('2 cells here'),
    '  redis  pid 12  moved in  3 flows  redis-server *:7000',
    '    10.77.1.2:7000 on the wire as 10.77.2.2:40000: 2 flows with 10.77.4.2',
    '    10.77.1.2:7000 on the wire as 10.77.2.2:40000: 1 flows with 10.77.5.2',
    '  web  pid 12  at home  0 flows  redis-server *:7000',
  ]);
});

test('cells elsewhere are told by the start of their id', () => {
  const remote = { cell: cell.id, epoch: 2, flows: 3, state: 'moved', wire: ['10.77.3.2'], relays: [] };
  const text = statusText(statusWith({ remote_cells: [remote, { ...remote, wire: [] }] }));
  expect(text).toContain('  cell abababab elsewhere: moved, epoch 2, 3 flows, now at 10.77.3.2');
  expect(text).toContain('now at no place known');
});

test('what waits for a suspended cell is told, and since when', () => {
  const held = { cell: cell.id, epoch: 0, flows: 3, state: 'held', wire: ['10.77.1.2'], relays: [] };
  const since = { held_since: Date.UTC(2026, 10, 23) };
  expect(statusText(statusWith({ remote_cells: [{ ...held, ...since }] }))).toContain(
    '    suspended since 2026-11-23T00:00:00.000Z: its connections here wait; osmosis held end gives it up',
  );
});

test('what is relayed is told at both hosts', () => {
  const relays = [{ peer: '10.77.5.2', flows: 2 }];
  const remote = { cell: cell.id, epoch: 2, flows: 3, state: 'moved', wire: ['10.77.3.2'], relays };
  expect(statusText(statusWith({ remote_cells: [remote] }))).toContain(
    '    relayed from here for 10.77.5.2, which has no agent: 2 flows',
  );
  const flows = [{ ...flowOf(1), by: '10.77.1.2' }, flowOf(2)];
  expect(statusText(statusWith({ cells: [{ ...cell, flows }] })).split('\n')).toEqual([
    expect.anything(),
    expect.stringContaining('2 flows'),
    expect.stringContaining('1 flows with 10.77.4.2, relayed by 10.77.1.2'),
    expect.stringMatching(/1 flows with 10.77.4.2$/),
  ]);
});

test('new connections that follow are listed with their end, at the host of the cell and where they come from', () => {
  const until = Date.UTC(2030, 0, 1);
  const endpoints = [{ protocol: 'tcp' as const, ...virtual }];
  const forwarding = { lease_s: 1_800, since: 0, endpoints, peers: [{ address: '10.77.4.2', until }] };
  expect(statusText(statusWith({ cells: [{ ...cell, forwarding }] }))).toContain(
    '    new connections to tcp 10.77.1.2:7000 follow it, renewed for 30m: 10.77.4.2 until 2030-01-01T00:00:00.000Z',
  );
  const follow = { until, labels: [{ protocol: 'tcp' as const, virtual, wire }] };
  const remote = { cell: cell.id, epoch: 2, flows: 0, state: 'moved', wire: [], relays: [], follow };
  expect(statusText(statusWith({ remote_cells: [remote] }))).toContain(
    '    new connections follow it until 2030-01-01T00:00:00.000Z unless renewed: tcp 10.77.1.2:7000 to 10.77.2.2:40000',
  );
});
