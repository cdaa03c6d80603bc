import { expect, test } from 'vitest';
import type { InetSocket } from '../proc/sockets.ts';
import { isHalfOpen, isWaitedFor } from './quiesce.ts';

const LISTENERS = [
  { address: '0.0.0.0', port: 7000 },
  { address: '10.77.1.2', port: 7001 },
];

const socket = (state: InetSocket['state'], address: string, port: number, receiveQueue = 0): InetSocket => ({
  protocol: 'tcp',
  family: 4,
  local: { address, port },
  remote: { address: '10.77.4.2', port: 51_000 },
  state,
  sendQueue: 0,
  receiveQueue,
  inode: 0,
});

test.each([
  [socket('listen', '0.0.0.0', 7000, 1), true],
  [socket('listen', '0.0.0.0', 7000, 0), false],
  [socket('listen', '0.0.0.0', 7002, 1), false],
  [socket('established', '10.77.1.2', 7001, 1), false],
])('%o waits to be accepted: %s', (one, expected) => {
  expect(isWaitedFor(one, LISTENERS)).toBe(expected);
});

test.each([
  [socket('syn-recv', '10.77.1.2', 7000), true],
  [socket('syn-recv', '10.77.1.2', 7001), true],
  [socket('syn-recv', '10.77.1.3', 7001), false],
  [socket('syn-recv', '10.77.1.2', 7002), false],
  [socket('established', '10.77.1.2', 7000), false],
])('%o is half open: %s', (one, expected) => {
  expect(isHalfOpen(one, LISTENERS)).toBe(expected);
});
