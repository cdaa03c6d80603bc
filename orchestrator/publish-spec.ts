/** `[ADDR:]PORT[=LISTENERPORT]`, as the command line has it. */
import { isIP } from 'node:net';
import type { PublishSpec } from '../agent/cell/publication.ts';
import { OsmosisError } from '../agent/error.ts';

const PORT_MAX = 65_535;

/** IPv6 addresses are in brackets. @throws OsmosisError USAGE */
export function publishSpec(text: string): PublishSpec {
  const [, bracketed, plain, port = '', listener] =
    /^(?:(?:\[([^\]]+)\]|([^:[\]]+)):)?(\d+)(?:=(\d+))?$/.exec(text) ?? [];
  const address = bracketed ?? plain;
  const isAddress = address === undefined || isIP(address) === (bracketed === undefined ? 4 : 6);
  if (!isAddress || !isPort(port) || (listener !== undefined && !isPort(listener)))
    throw new OsmosisError(
      'USAGE',
      `${text} is not [ADDR:]PORT or [ADDR:]PORT=LISTENERPORT; nothing was touched`,
    );
  return {
    port: Number(port),
    ...(address === undefined ? {} : { address }),
    ...(listener === undefined ? {} : { listener: Number(listener) }),
  };
}

function isPort(text: string): boolean {
  return /^[1-9]\d{0,4}$/.test(text) && Number(text) <= PORT_MAX;
}
