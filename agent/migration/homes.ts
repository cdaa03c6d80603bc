/** Pairs of keys with the host that a cell comes from, for its new flows: that host is to be told of them by the cell. */
import type { PeerKeys } from '../cell/registry.ts';
import type { Snapshot } from '../control/protocol.ts';
import { FIRST_PAIR_EPOCH } from '../wire/h2o-peer.ts';
import { generateKeyPair, type KeyPair } from '../wire/h2o-session.ts';

export type HomeKeys = KeyPair & { readonly address: string };

type Coming = Pick<Snapshot, 'flows' | 'forwarding'>;

/** Not with an address that the cell has flows with: these make a pair as always. */
export function offeredHomes({ flows, forwarding }: Coming): HomeKeys[] {
  const peers = new Set(flows.map(({ at }) => at.address));
  const offered = (forwarding?.homes ?? []).filter(({ address }) => !peers.has(address));
  return offered.map(({ address }) => ({ address, ...generateKeyPair() }));
}

export function homePeers(homes: readonly HomeKeys[], { forwarding }: Coming): PeerKeys[] {
  const offered = forwarding?.homes ?? [];
  return homes.map(({ address, secretKey, publicKey }) => ({
    address,
    epoch: FIRST_PAIR_EPOCH,
    last: FIRST_PAIR_EPOCH,
    secretKey,
    publicKey,
    peerPublicKey: offered.find((one) => one.address === address)?.publicKey,
  }));
}
