import { expect, test } from 'vitest';
import { decodeCounters } from './layout.ts';
import { listText } from './list.ts';

const EMPTY = {
  flows: [],
  sides: [],
  listeners: [],
  forwards: [],
  insides: [],
  rooms: [],
  rules: [],
  devices: [],
  counters: decodeCounters([]),
};

test('an empty datapath says so', () => {
  expect(listText(EMPTY)).toBe('The datapath is empty.');
});

test('sections are there where they have something to show', () => {
  const text = listText({
    ...EMPTY,
    sides: [
      { id: 3, state: 'armed', active: 0, accept: 3, ifindex: 0 },
      { id: 12, state: 'home', active: 0, accept: 1, ifindex: 7 },
    ],
    flows: [
      {
        protocol: 'tcp',
        local: { address: '10.77.4.2', port: 51000 },
        remote: { address: '10.77.1.2', port: 7000 },
        wireLocal: { address: '10.77.4.2', port: 51000 },
        wireRemote: [
          { endpoint: { address: '10.77.1.2', port: 7000 }, ifindex: 2 },
          { endpoint: { address: '10.77.2.2', port: 40001 }, ifindex: 2 },
        ],
        localSide: 0,
        remoteSide: 3,
        scope: 0,
        via: 0,
      },
      {
        protocol: 'udp',
        local: { address: '10.77.1.9', port: 53 },
        remote: { address: '10.77.5.2', port: 4000 },
        wireLocal: { address: '10.77.4.2', port: 40002 },
        wireRemote: [{ endpoint: { address: '10.77.5.2', port: 4000 }, ifindex: 2 }, undefined],
        localSide: 12,
        remoteSide: 0,
        scope: 7,
        via: 0,
        rule: 1,
      },
    ],
    listeners: [{ address: '::', port: 443 }],
    rules: [
      {
        rule: {
          kind: 'accept',
          protocol: 'udp',
          wire: { address: '10.77.4.2', port: 8053 },
          local: { address: '10.77.1.9', port: 53 },
          localSide: 12,
          scope: 7,
          flowsMax: 100,
        },
        number: 1,
        limit: 100,
      },
      {
        rule: {
          kind: 'follow',
          protocol: 'tcp',
          remote: { address: '10.77.1.2', port: 7000 },
          to: { endpoint: { address: '10.77.2.2', port: 40001 }, ifindex: 2 },
          remoteSide: 3,
          flowsMax: 100,
        },
        number: 2,
        limit: 100,
      },
      {
        rule: {
          kind: 'way_out',
          scope: 7,
          prefix: '0.0.0.0',
          bits: 0,
          address: '10.77.4.2',
          ifindex: 2,
          localSide: 12,
          labels: { first: 46000, count: 1000 },
          flowsMax: 100,
        },
        number: 3,
        limit: 100,
      },
    ],
    devices: [{ name: 'eth0', ifindex: 2, programs: ['from_wire', 'to_wire'] }],
    counters: { ...EMPTY.counters, stale: 4 },
  });
  expect(text).toBe(
    [
      'SIDE  STATE  ACTIVE  ACCEPTS  IFINDEX',
      '3     armed  0       0,1      -',
      '12    home   0       0        7',
      '',
      'FLOW   LOCAL            REMOTE          WIRE LOCAL       WIRE REMOTE                          SIDES',
      'tcp    10.77.4.2:51000  10.77.1.2:7000  =                10.77.1.2:7000%2* 10.77.2.2:40001%2  -/3',
      'udp%7  10.77.1.9:53     10.77.5.2:4000  10.77.4.2:40002  10.77.5.2:4000%2                     12/-',
      '',
      'FENCED LISTENER',
      '[::]:443',
      '',
      'NEW FLOWS                GO TO                    FLOWS',
      'to udp 10.77.4.2:8053    10.77.1.9:53 in cell %7  1/100',
      'to tcp 10.77.1.2:7000    10.77.2.2:40001%2        0/100',
      'of cell %7 to 0.0.0.0/0  10.77.4.2:46000-46999%2  0/100',
      '',
      'DEVICE  PROGRAMS',
      'eth0    from_wire to_wire',
      '',
      'PACKETS  COUNT',
      'stale    4',
    ].join('\n'),
  );
});
