import { expect, test, vi } from 'vitest';
import type { PlacedFlow } from '../address.ts';
import type { Cell } from '../cell/registry.ts';
import { flowWith } from '../test-support.ts';
import { offerOwnEnds } from './offering.ts';

const cell = { link: undefined } as Cell;
const LOCAL = { address: '127.0.0.1', port: 7000 };
const REMOTE = { address: '127.0.0.1', port: 51_000 };
const here: PlacedFlow = { protocol: 'tcp', local: LOCAL, remote: REMOTE, at: REMOTE };
const relayed = flowWith(51_000, '10.77.5.2');
const others = flowWith(51_000);

function ends(fails = false) {
  const ownEnds = {
    offer: vi.fn(async (flows: readonly PlacedFlow[], relay: boolean) => {
      if (relay && fails) throw new Error('no label is left');
      return flows.map((flow) => ({ ...flow, at: { address: '10.77.1.2', port: 40_000 } }));
    }),
    withdraw: vi.fn(),
  };
  return { ownEnds, peerSide: { ownEnds } as never };
}

test('this host is the peer for what stays here, and for those that it relays for', async () => {
  const { ownEnds, peerSide } = ends();
  const flows = await offerOwnEnds(peerSide, cell, [here, relayed, others], new Set(['10.77.5.2']));
  expect(ownEnds.offer.mock.calls).toEqual([
    [[here], false],
    [[relayed], true],
  ]);
  expect(flows.map(({ at }) => at.port)).toEqual([51_000, 40_000, 40_000]);
});

test('where one kind can not be offered the other is withdrawn', async () => {
  const { ownEnds, peerSide } = ends(true);
  const offering = offerOwnEnds(peerSide, cell, [here, relayed], new Set(['10.77.5.2']));
  await expect(offering).rejects.toThrow('no label is left');
  expect(ownEnds.withdraw.mock.calls).toEqual([[[expect.objectContaining({ remote: REMOTE })]]]);
});
