/** `osmosis keep --leave`: whether flows can leave addresses of this host. */
import { OsmosisError } from '../error.ts';

/** `going`: all that are to be left. @throws OsmosisError USAGE */
export function checkLeavable(
  addresses: readonly string[],
  usable: ReadonlySet<string>,
  going: ReadonlySet<string>,
): void {
  for (const address of addresses) {
    if (!usable.has(address))
      throw new OsmosisError('USAGE', `${address} is no address of this host; nothing was touched.`);
    const isV6 = address.includes(':');
    const others = [...usable].filter((other) => other.includes(':') === isV6 && !going.has(other));
    if (others.length === 0)
      throw new OsmosisError(
        'USAGE',
        `this host has no address but ${address} that connections could go by; nothing was touched. Add the new one first.`,
      );
  }
}
