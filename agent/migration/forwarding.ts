/** The source's part in new flows that are to follow the cell: what it hands on, and what it does itself as their old home. */
import { endpointsOf, type Listener, labelsTo } from '../cell/forwarding.ts';
import type { Cell } from '../cell/registry.ts';
import type { AgentContext } from '../context.ts';
import type { Check, Label, Snapshot } from '../control/protocol.ts';
import { OsmosisError } from '../error.ts';
import { isOwnAddress, ownAddresses } from '../host/routes.ts';
import { FOLLOW_ROWS_MAX } from '../wire/h2o-follow.ts';
import { generateKeyPair, type KeyPair } from '../wire/h2o-session.ts';

type Handed = NonNullable<Snapshot['forwarding']>;
type Tree = Pick<Snapshot, 'listeners' | 'addresses'>;
/** Public keys of the destination for the pairs that were offered. */
export type Answered = readonly { readonly address: string; readonly publicKey: Uint8Array }[];

export class SourceForwarding {
  readonly handed: Handed;
  readonly #keys: ReadonlyMap<string, KeyPair>;

  private constructor(handed: Handed, keys: ReadonlyMap<string, KeyPair>) {
    this.handed = handed;
    this.#keys = keys;
  }

  /** `lease_s`: as the operator wants it now; otherwise what the cell came with counts. Undefined: no new flows. */
  static async of(
    cell: Cell,
    { listeners, addresses }: Tree,
    peers: readonly string[],
    lease_s: number | undefined,
  ): Promise<SourceForwarding | undefined> {
    const lease = lease_s ?? cell.forwarding?.lease_s;
    if (lease === undefined) return undefined;
    const isHome = cell.link === undefined;
    const own = isHome ? await ownAddresses() : cell.addresses;
    const endpoints = cell.forwarding?.endpoints ?? bounded(listeners, own, addresses);
    const homes = isHome ? homesOf(endpoints, addresses) : [];
    const keys = new Map(homes.map((address) => [address, generateKeyPair()]));
    const followers = cell.peers
      .filter(({ epoch, address, peerPublicKey }) => epoch > 0 && peerPublicKey && !peers.includes(address))
      .map(({ address }) => address);
    const offered = [...keys].map(([address, { publicKey }]) => ({ address, publicKey }));
    return new SourceForwarding(
      {
        lease_s: lease,
        since: cell.forwarding?.since ?? Date.now(),
        endpoints: [...endpoints],
        homes: offered,
        followers: cell.forwarding === undefined ? [] : followers,
      },
      keys,
    );
  }

  /** The cell is gone from here: whoever asks this host for it is sent on, before anything could be refused. */
  async begin(
    { peerSide }: Pick<AgentContext, 'peerSide'>,
    cell: string,
    labels: readonly Label[],
    answered: Answered,
  ): Promise<void> {
    const { lease_s, endpoints } = this.handed;
    const rows = labelsTo(endpoints, labels);
    for (const [address, keys] of this.#keys) {
      const its = rows.filter(({ peer }) => peer === address).slice(0, FOLLOW_ROWS_MAX);
      if (its.length === 0) continue;
      const cellPublicKey = answered.find((one) => one.address === address)?.publicKey;
      const pair = cellPublicKey === undefined ? undefined : { ...keys, cellPublicKey };
      await peerSide.beginFollow(cell, { leaseSeconds: lease_s, labels: its }, pair);
    }
  }
}

/** For a plan: what would be handed on, or why it can't be. */
export async function plannedForwarding(
  ...facts: Parameters<typeof SourceForwarding.of>
): Promise<{ readonly forwarding?: Handed; readonly checks: readonly Check[] }> {
  try {
    const planned = await SourceForwarding.of(...facts);
    return { checks: [], ...(planned && { forwarding: planned.handed }) };
  } catch (error) {
    if (!(error instanceof OsmosisError)) throw error;
    return { checks: [{ name: 'forward-new', ok: false, message: error.message }] };
  }
}

/** Of all addresses of the host where a datagram has room for them, otherwise of those in use. */
function bounded(
  listeners: readonly Listener[],
  own: readonly string[],
  used: readonly string[],
): readonly Listener[] {
  const all = endpointsOf(listeners, [...new Set([...used, ...own])]);
  const endpoints = all.length > FOLLOW_ROWS_MAX ? endpointsOf(listeners, used) : all;
  if (endpoints.length > 0 && endpoints.length <= FOLLOW_ROWS_MAX) return endpoints;
  const why =
    endpoints.length === 0
      ? 'the process listens on no address that others can reach'
      : `the process listens on ${endpoints.length} endpoints, and ${FOLLOW_ROWS_MAX} can be announced`;
  throw new OsmosisError('PREFLIGHT', `new connections can't follow: ${why}. Go on without --forward-new.`, {
    phase: 'prepare',
  });
}

/** One address of this host a family, in use where there is one: there the destination finds this agent. */
function homesOf(endpoints: readonly Listener[], used: readonly string[]): string[] {
  const own = endpoints.map(({ address }) => address).filter((address) => isOwnAddress(address));
  const preferred = [...used.filter((address) => own.includes(address)), ...own];
  return [false, true].flatMap((v6) => preferred.find((address) => address.includes(':') === v6) ?? []);
}
