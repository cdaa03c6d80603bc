import { expect, test } from 'vitest';
import type { Endpoint, Flow, Protocol } from '../address.ts';
import { isUnconnected, socketIndex } from './socket-index.ts';
import type { InetSocket } from './sockets.ts';

const PEER = { address: '10.77.4.2', port: 51_000 };
const PEER6 = { address: 'fd77::4', port: 51_000 };
const NOBODY = { address: '0.0.0.0', port: 0 };

function socket(protocol: Protocol, local: Endpoint, remote: Endpoint = NOBODY): InetSocket {
  const state = remote.port === 0 ? 'close' : 'established';
  return { protocol, family: 4, local, remote, state, sendQueue: 0, receiveQueue: 0, inode: 1 };
}

function flow(protocol: Protocol, address: string, port: number, remote: Endpoint = PEER): Flow {
  return { protocol, local: { address, port }, remote };
}

test('a connected socket has its flow and no other', () => {
  const index = socketIndex([socket('udp', { address: '10.77.1.2', port: 7000 }, PEER)]);
  expect(index.has(flow('udp', '10.77.1.2', 7000))).toBe(true);
  expect(index.has(flow('tcp', '10.77.1.2', 7000))).toBe(false);
  expect(index.has(flow('udp', '10.77.1.2', 7000, { ...PEER, port: 51_001 }))).toBe(false);
});

test.each([
  ['10.77.1.2', [true, false, false]],
  ['0.0.0.0', [true, true, false]],
  ['::', [true, true, true]],
  ['fd77::1', [false, false, true]],
])('an unconnected socket at %s has those of its address with anybody', (address, expected) => {
  const index = socketIndex([socket('udp', { address, port: 7000 })]);
  const flows = [
    flow('udp', '10.77.1.2', 7000),
    flow('udp', '10.77.9.9', 7000),
    flow('udp', 'fd77::1', 7000, PEER6),
  ];
  expect(flows.map((each) => index.has(each))).toEqual(expected);
  expect(index.has(flow('udp', '10.77.1.2', 7001))).toBe(false);
  expect(index.has(flow('tcp', '10.77.1.2', 7000))).toBe(false);
});

test('a listening TCP socket is none of these', () => {
  expect(isUnconnected(socket('tcp', { address: '0.0.0.0', port: 7000 }))).toBe(false);
  expect(isUnconnected(socket('udp', { address: '0.0.0.0', port: 7000 }, PEER))).toBe(false);
});
