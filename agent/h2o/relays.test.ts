import { expect, test } from 'vitest';
import type { RelayState } from '../datapath/model.ts';
import {
  isOver,
  RELAY_CLOSED_MS_MAX,
  RELAY_RESET_MS_MAX,
  RELAY_TCP_IDLE_MS_MAX,
  RELAY_UDP_IDLE_MS_MAX,
} from './relays.ts';

const SEEN_NS = 1_000_000_000n;

function stateOf(protocol: 'tcp' | 'udp', ended: Partial<RelayState>): RelayState {
  const local = { address: '10.77.5.2', port: 51_000 };
  const remote = { address: '10.77.1.2', port: 7000 };
  return {
    id: { protocol, local, remote, scope: 0xffffffff },
    seenNs: SEEN_NS,
    isClosed: false,
    isReset: false,
    ...ended,
  };
}

test.each([
  ['tcp', {}, RELAY_TCP_IDLE_MS_MAX],
  ['tcp', { isClosed: true }, RELAY_CLOSED_MS_MAX],
  ['tcp', { isReset: true }, RELAY_RESET_MS_MAX],
  ['tcp', { isClosed: true, isReset: true }, RELAY_RESET_MS_MAX],
  ['udp', {}, RELAY_UDP_IDLE_MS_MAX],
] as const)('%s %o is over after %i ms of silence', (protocol, ended, ms) => {
  const at = SEEN_NS + BigInt(ms) * 1_000_000n;
  expect(isOver(stateOf(protocol, ended), at)).toBe(false);
  expect(isOver(stateOf(protocol, ended), at + 1n)).toBe(true);
});
