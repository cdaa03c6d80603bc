/** `osmosis trust` at one agent. */
import { isIP } from 'node:net';
import { addressBytes, addressText } from '../address.ts';
import type { AgentContext } from '../context.ts';
import type { Handlers } from '../control/server.ts';
import type { TRUST_METHODS } from '../control/trust-protocol.ts';
import { OsmosisError } from '../error.ts';
import { ownAddresses } from '../host/routes.ts';
import { fingerprintOf, fingerprintText, parseFingerprint } from '../wire/h2o-identity.ts';

export function trustHandlers({
  trust,
  peerSide,
  log,
}: Pick<AgentContext, 'trust' | 'peerSide' | 'log'>): Pick<Handlers, keyof typeof TRUST_METHODS> {
  const { known } = trust;
  const dropUntrusted = () =>
    peerSide.dropAnnounced(({ address, identity }) => !trust.stands(address, identity), false);
  return {
    'trust.list': async () => ({
      fingerprint: trust.fingerprint,
      public_key: trust.publicKey,
      addresses: await ownAddresses(),
      policy: known.policy,
      known: known.all(),
      revoked: known.revoked(),
      refused: known.refused(),
    }),
    'trust.pin': async ({ pins, replace, dry_run }) => {
      const wanted = pins.map(({ address, identity }) => ({
        address: canonicalAddress(address),
        fingerprint: canonicalFingerprint(identity),
      }));
      const rows = known.pin(wanted, { replace, dryRun: dry_run });
      if (!dry_run) {
        log.info({ rows }, 'identities to be pinned');
        await dropUntrusted();
      }
      return { rows };
    },
    'trust.revoke': async ({ identity, addresses = [], dry_run }) => {
      const named = identity === undefined ? [] : [canonicalFingerprint(identity)];
      const found = addresses.flatMap((each) => known.at(canonicalAddress(each))?.fingerprint ?? []);
      const revoked = [...new Set([...named, ...found])];
      if (revoked.length === 0)
        throw new OsmosisError(
          'NO_SUCH_TARGET',
          `no identity is known at ${addresses.join(', ')}; nothing was changed. See osmosis trust list.`,
        );
      if (revoked.includes(trust.fingerprint))
        throw new OsmosisError(
          'USAGE',
          `${trust.fingerprint} is the identity of this host itself; nothing was changed. Revoke it at the others.`,
        );
      const gone = revoked.flatMap((each) => known.revoke(each, dry_run));
      if (!dry_run) log.info({ revoked }, 'identities revoked');
      const dropped = await peerSide.dropAnnounced(
        ({ identity }) => revoked.includes(fingerprintText(fingerprintOf(identity))),
        dry_run,
      );
      return { revoked, known: gone, dropped };
    },
    'trust.policy': async ({ policy, dry_run }) => {
      const before = known.policy;
      if (policy === undefined || policy === before) return { policy: before, before };
      if (!dry_run) {
        known.setPolicy(policy);
        await dropUntrusted();
      }
      return { policy, before };
    },
  };
}

/** As agents see one another. */
function canonicalAddress(text: string): string {
  if (isIP(text) === 0 || text.includes('%'))
    throw new OsmosisError('USAGE', `not an IP address: ${JSON.stringify(text)}; nothing was changed`);
  return addressText(addressBytes(text));
}

function canonicalFingerprint(text: string): string {
  const fingerprint = parseFingerprint(text);
  if (fingerprint !== undefined) return fingerprintText(fingerprint);
  throw new OsmosisError(
    'USAGE',
    `not an identity: ${JSON.stringify(text)}; nothing was changed. Write SHA256:… or 'ssh-ed25519 AAAA…', as osmosis trust list shows it.`,
  );
}
