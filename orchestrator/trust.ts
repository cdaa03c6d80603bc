/** Who pins whom, where the hosts of one command are to know one another. */
import { lookup } from 'node:dns/promises';
import { isIP } from 'node:net';
import type { Params, Result } from '../agent/control/protocol.ts';
import { OsmosisError } from '../agent/error.ts';
import { resolveSshConfig } from './ssh/config.ts';
import { parseTarget } from './ssh/target.ts';

/** One host, reached over SSH, as its own agent describes it. */
export type Introduced = Pick<Result<'trust.list'>, 'fingerprint' | 'addresses'> & { readonly host: string };
export type PinRow = Result<'trust.pin'>['rows'][number];
type Pin = Params<'trust.pin'>['pins'][number];

export type Introductions = {
  /** For each host, in order: the addresses of the others. */
  readonly pins: readonly (readonly Pin[])[];
  /** Addresses that more than one of the hosts has, such as those of container bridges: they are pinned nowhere. */
  readonly shared: readonly string[];
};

export function introductions(hosts: readonly Introduced[]): Introductions {
  const holders = new Map<string, Set<string>>();
  for (const { fingerprint, addresses } of hosts) {
    for (const address of addresses)
      holders.set(address, (holders.get(address) ?? new Set()).add(fingerprint));
  }
  const isShared = (address: string) => (holders.get(address)?.size ?? 0) > 1;
  const pins = hosts.map((own) =>
    hosts
      .filter(({ fingerprint }) => fingerprint !== own.fingerprint)
      .flatMap(({ fingerprint, addresses }) =>
        addresses
          .filter((address) => !isShared(address))
          .map((address): Pin => ({ address, identity: fingerprint })),
      ),
  );
  return { pins, shared: [...holders.keys()].filter(isShared) };
}

/** @throws OsmosisError PEER_UNTRUSTED where a pin would overrule what an operator has said before. */
export function checkPins(host: string, rows: readonly PinRow[]): void {
  const objections = rows.flatMap(({ address, fingerprint, action, before }) => {
    if (action === 'conflict') return `${address} is pinned to ${before}, not to ${fingerprint}`;
    return action === 'revoked' ? `${fingerprint}, now at ${address}, has been revoked` : [];
  });
  if (objections.length === 0) return;
  throw new OsmosisError(
    'PEER_UNTRUSTED',
    `${host}: ${objections.join('; ')}. Nothing was changed. If the new identity is right: again, with --replace.`,
  );
}

/**
 * The addresses of a host as an operator names it: an address, a name of the SSH configuration, or one that resolves here.
 * @throws OsmosisError USAGE
 */
export async function addressesOf(host: string, sshConfig: string | undefined): Promise<string[]> {
  if (isIP(host) !== 0) return [host];
  const target = parseTarget(host.startsWith('ssh://') ? host : `ssh://${host}`);
  if (target.kind === 'local')
    throw new OsmosisError('USAGE', 'this host trusts itself; nothing was changed');
  const { hostname } = await resolveSshConfig(target, sshConfig);
  if (isIP(hostname) !== 0) return [hostname];
  try {
    return (await lookup(hostname, { all: true })).map(({ address }) => address);
  } catch (cause) {
    throw new OsmosisError(
      'USAGE',
      `${JSON.stringify(host)} does not resolve to an address; nothing was changed. Name the address itself.`,
      { cause },
    );
  }
}
