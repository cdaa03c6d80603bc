import { expect, test } from 'vitest';
import type { Cell } from '../cell/registry.ts';
import { flowWith } from '../test-support.ts';
import { unaskedPeers } from './unasked.ts';

const OTHER = '10.77.5.2';
const cell = { id: 'c0', link: undefined } as Cell;
const flows = [flowWith(51_000), flowWith(51_001), flowWith(51_000, OTHER)];
const agreed = (...peers: string[]) => ({ isRegistered: (_: string, peer: string) => peers.includes(peer) });
/** `kept`: addresses of peers whose own ends may move without a word as well. */
const peerSide = (...kept: string[]) => ({
  peerSide: {
    areKept: async (ids: readonly { remote: { address: string } }[]) =>
      ids.some(({ remote }) => kept.includes(remote.address)),
  } as never,
});

test('peers that have agreed to all flows are not asked, the others are', async () => {
  expect([...(await unaskedPeers(peerSide(), agreed(OTHER), cell, flows))]).toEqual([OTHER]);
  expect([...(await unaskedPeers(peerSide(), agreed(), cell, flows))]).toEqual([]);
});

test('of two ends that may both move without a word, each asks', async () => {
  const both = agreed('10.77.4.2', OTHER);
  expect([...(await unaskedPeers(peerSide('10.77.4.2'), both, cell, flows))]).toEqual([OTHER]);
});

test('who relays is asked', async () => {
  const relayed = flows.map((flow) => ({ ...flow, relayed: true }));
  expect([...(await unaskedPeers(peerSide(), agreed('10.77.4.2', OTHER), cell, relayed))]).toEqual([]);
});
