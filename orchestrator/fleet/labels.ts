/** `--label KEY=VALUE` */
import { type Placement, placementSchema } from '../../agent/control/drain-protocol.ts';
import { OsmosisError } from '../../agent/error.ts';

/** The last one of a key counts. @throws OsmosisError USAGE */
export function parseLabels(texts: readonly string[] = []): Placement {
  const pairs = texts.map((text): [string, string] => {
    const at = text.indexOf('=');
    if (at < 1) throw badLabel(text);
    return [text.slice(0, at), text.slice(at + 1)];
  });
  for (const [key, value] of pairs)
    if (!placementSchema.safeParse({ [key]: value }).success) throw badLabel(`${key}=${value}`);
  const labels = placementSchema.safeParse(Object.fromEntries(pairs));
  if (labels.success) return labels.data;
  throw new OsmosisError('USAGE', `${labels.error.issues[0]?.message}; nothing was touched`);
}

function badLabel(text: string): OsmosisError {
  return new OsmosisError(
    'USAGE',
    `--label ${text}: write KEY=VALUE of letters, digits, . _ - and /, 63 each at most; nothing was touched`,
  );
}
