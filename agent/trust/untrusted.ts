/** What an operator reads when an identity is not the one that it should be. The process has not been touched. */
import { OsmosisError } from '../error.ts';
import { fingerprintText } from '../wire/h2o-identity.ts';
import type { Distrust } from './known-identities.ts';

const STAYS = 'The process stays where it is, with its connections.';
const COMPARE = 'Compare with what osmosis trust list says on';

/** This host does not believe the peer at `address`, which shows the identity `shown` (SHA256:…). */
export function peerUntrusted(address: string, shown: string, { why, known }: Distrust): OsmosisError {
  const pin = `osmosis trust pin ${address} ${shown}, for this host`;
  if (why === 'mismatch' && known !== undefined) {
    const how = known.how === 'pinned' ? 'pinned' : 'learnt at first use';
    return untrusted(
      `the peer ${address} shows the identity ${shown}, but this host knows it by ${known.fingerprint} ` +
        `(${how} ${new Date(known.since).toISOString()}): its agent was installed anew, it has another host's address, or somebody answers in its place. ${STAYS} ` +
        `${COMPARE} ${address}; if that is right: ${pin}${known.how === 'pinned' ? ', with --replace' : ''}; ` +
        `and if ${known.fingerprint} is not to be believed anywhere any more, osmosis trust revoke.`,
    );
  }
  if (why === 'revoked')
    return untrusted(
      `the peer ${address} shows the identity ${shown}, which has been revoked at this host. ${STAYS} ` +
        `If it is to be believed again: ${pin}, with --replace.`,
    );
  return untrusted(
    `this host trusts pinned identities only, and none is pinned for the peer ${address}, which shows ${shown}. ${STAYS} ` +
      `${COMPARE} ${address}, then ${pin}; or osmosis trust import with both hosts.`,
  );
}

/** The peer at `address` does not believe this host, whose identity is `own`; `known`: whom it knows at our address, if any. */
export function untrustedByPeer(address: string, own: string, known: Uint8Array): OsmosisError {
  const knows = known.some((byte) => byte !== 0) ? fingerprintText(known) : undefined;
  if (knows === own)
    return untrusted(
      `the peer ${address} refuses this host: its identity ${own} has been revoked there. ${STAYS} ` +
        `If it is to be believed again: osmosis trust pin, with this host's address and ${own}, on the peer, with --replace.`,
    );
  if (knows === undefined)
    return untrusted(
      `the peer ${address} refuses this host, whose identity is ${own}: it trusts pinned identities only and has none for our address, ` +
        `or ours was revoked there. ${STAYS} See osmosis trust list on ${address}, then osmosis trust pin there; or osmosis trust import with both hosts.`,
    );
  return untrusted(
    `the peer ${address} refuses this host: this host's identity is ${own}, but the peer knows its address by ${knows}: the agent here ` +
      `was installed anew, has another host's address, or somebody has come in its place. ${STAYS} If ours is right, on the peer: ` +
      `osmosis trust pin, with this host's address and ${own}; and if ${knows} is not to be believed anywhere any more, osmosis trust revoke.`,
  );
}

function untrusted(message: string): OsmosisError {
  return new OsmosisError('PEER_UNTRUSTED', message);
}
