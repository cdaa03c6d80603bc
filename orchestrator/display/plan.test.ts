import { expect, it } from 'vitest';
import type { Plan } from '../plan.ts';
import { planText } from './plan.ts';

const PLAN: Plan = {
  cell: 'redis-1',
  from: 'alpha',
  to: 'beta',
  processes: [
    { pid: 7, command: 'redis-server *:6379', resident_bytes: 12_300_000 },
    { pid: 4711, command: `sh\u001b[2J -c ${'x'.repeat(80)}`, resident_bytes: 900_000 },
  ],
  peers: [
    { address: '10.77.4.2', agent: true, flows: 12, relayed: 0 },
    { address: '10.77.5.2', agent: false, flows: 1, relayed: 0 },
  ],
  home: true,
  listeners: ['tcp 10.77.1.2:6379'],
  image_bytes_estimate: 13_200_000,
  checks: [
    { name: 'criu', ok: true, message: '4.1.1' },
    { name: 'room', ok: false, message: 'beta has 1 MB free; free 13 MB in /run' },
  ],
};

it('says what would follow, and where it would be published', () => {
  const text = planText({
    ...PLAN,
    forward_new: { lease_s: 3_600, endpoints: ['tcp 10.77.1.2:6379'], relays: true },
    publish: [
      {
        protocol: 'tcp',
        wire: { address: '10.77.2.2', port: 80 },
        local: { address: '10.77.1.2', port: 6379 },
      },
    ],
  });
  const lines = text.split('\n');
  expect(lines.slice(lines.indexOf('checks') - 5, lines.indexOf('checks'))).toEqual([
    'new connections follow, renewed for 1h at a time',
    '  tcp 10.77.1.2:6379',
    '  those of hosts without an agent by way of alpha',
    'published',
    '  tcp 10.77.2.2:80  for 10.77.1.2:6379',
  ]);
});

it('lists what would move and what stands in the way', () => {
  expect(planText(PLAN).split('\n')).toEqual([
    'redis-1: from alpha to beta, about 13.2 MB of image',
    'processes',
    '  7     12.3 MB  redis-server *:6379',
    `  4711  900 kB   sh [2J -c ${'x'.repeat(49)}…`,
    'peers',
    '  10.77.4.2  12 connections  agent',
    '  10.77.5.2  1 connection    NO AGENT: a legacy peer',
    'listens on',
    '  tcp 10.77.1.2:6379',
    'checks',
    '  ok    criu  4.1.1',
    '  FAIL  room  beta has 1 MB free; free 13 MB in /run',
    'It cannot move: 1 check failed. Nothing has been touched.',
    '',
  ]);
});

it('leaves out what there is none of', () => {
  expect(planText({ ...PLAN, processes: [], peers: [], listeners: [], checks: [] })).toBe(
    'redis-1: from alpha to beta, about 13.2 MB of image\nIt can move. Nothing has been touched.\n',
  );
});
