/**
 * A peer's host that has changed its own address knows a cell that has moved by the keys that were made under the old one,
 * and lets nobody begin anew with it. So it is asked with those.
 */
import type { Cell, Registry } from '../cell/registry.ts';
import {
  type Asked,
  aboutOf,
  type Patience,
  type SourcedFlow,
  sayHello,
  type Voice,
} from '../h2o/cell-side.ts';

/** Keys that are tried, the newest. */
const OLDER_KEYS_MAX = 4;

type Question = {
  readonly peer: string;
  readonly flows: readonly SourcedFlow[];
  /** Addresses that other ends of the cell's flows are at: their keys are theirs. */
  readonly inUse: ReadonlySet<string>;
  /** The claims are to be kept. */
  readonly keeps?: true | undefined;
  readonly patience?: Patience | undefined;
};

/** From then on the keys are those with `peer`. Undefined where it knows none of them. */
export async function askWithOlderKeys(
  { registry, ...voice }: Voice & { readonly registry: Registry },
  cell: Cell,
  { peer, flows, inUse, keeps, patience }: Question,
  signal: AbortSignal,
): Promise<Asked | undefined> {
  const { peers } = registry.get(cell.id) ?? cell;
  const older = peers.filter(
    ({ address, epoch, peerPublicKey }) =>
      epoch > 0 && peerPublicKey !== undefined && address !== peer && !inUse.has(address),
  );
  for (const keys of older.slice(-OLDER_KEYS_MAX)) {
    const about = { ...aboutOf(cell.id, keys), ...(keeps && { keeps }) };
    const asked = await sayHello(voice, peer, about, flows, [], signal, patience);
    if (asked.peerPublicKey === undefined) continue;
    registry.readdressKeys(cell, keys, peer);
    return asked;
  }
  return undefined;
}
