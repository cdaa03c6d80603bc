/** Where flows of this host should be on the wire, now that it has these addresses. Pure. */
import { type Endpoint, endpointKey, isSameEndpoint } from '../address.ts';
import type { LocalHalf } from '../datapath/model.ts';
import type { Label } from '../wire/h2o-layout.ts';

/** A flow of a cell that its peer has let it claim, with its own end's place at this host. */
export type KeptFlow = LocalHalf & {
  /** What the other end takes for our endpoint, where that is not `local`. */
  readonly known?: Endpoint | undefined;
  /**
   * Of a datagram socket that is bound to no address: it speaks as whatever address this host has, so its own port stands for
   * it on the wire, and nothing is entered here.
   */
  readonly isLoose?: boolean | undefined;
};

/**
 * Addresses that this host can be reached by, from the JSON of `ip addr show`: of devices that are up and have a carrier.
 * `kept`: what was put on the loopback device only so that sockets go on; it does not count there.
 */
export function parseUsable(text: string, kept: ReadonlySet<string>): Set<string> {
  return new Set(usableOf(text, kept).map(({ local }) => local));
}

/**
 * Of those the ones that are about to go: deprecated, and valid for a limited time only. (One that is deprecated for ever is
 * an ordinary address that new connections are not to begin with.)
 */
export function parseGoing(text: string, kept: ReadonlySet<string>): Set<string> {
  const going = usableOf(text, kept).filter(
    ({ deprecated, valid_life_time: valid }) =>
      deprecated === true && valid !== undefined && valid < FOR_EVER,
  );
  return new Set(going.map(({ local }) => local));
}

/** In JSON of `ip addr`: a lifetime without end. */
const FOR_EVER = 0xffff_ffff;

type AddressFact = {
  local?: string;
  scope?: string;
  tentative?: boolean;
  deprecated?: boolean;
  valid_life_time?: number;
};

function usableOf(text: string, kept: ReadonlySet<string>): (AddressFact & { local: string })[] {
  const links = JSON.parse(text) as { ifname?: string; flags?: string[]; addr_info?: AddressFact[] }[];
  return links.flatMap(({ ifname, flags = [], addr_info = [] }) =>
    flags.includes('LOWER_UP')
      ? addr_info.flatMap(({ local, ...more }) => {
          const isOurs = ifname === 'lo' && (local === undefined || kept.has(local));
          const isReachable = more.scope === 'global' && more.tentative !== true;
          return local === undefined || isOurs || !isReachable ? [] : [{ local, ...more }];
        })
      : [],
  );
}

export type Wanted = {
  readonly usable: ReadonlySet<string>;
  /** Those of them that flows are to leave, while they still work; where there is no other, they stay. */
  readonly going?: ReadonlySet<string>;
  /** The cell has a network of its own: no address of the host's stands for its endpoints themselves. */
  readonly isInside: boolean;
  /** With which address this host now reaches the peer; undefined where there is none. */
  readonly source: string | undefined;
};

/** The address on the wire; undefined where there is none at the moment, so that nothing is to be changed. */
export function wireAddress(
  { local, wireLocal, isLoose }: Pick<KeptFlow, 'local' | 'wireLocal' | 'isLoose'>,
  { usable, going = new Set(), isInside, source }: Wanted,
): string | undefined {
  // What is bound to no address speaks as the kernel has it, for as long as that is there.
  const stays = (address: string) => usable.has(address) && (isLoose === true || !going.has(address));
  if (!isInside && stays(local.address)) return local.address;
  if (stays(wireLocal.address)) return wireLocal.address;
  const isSource = source !== undefined && usable.has(source);
  if (isSource && source.includes(':') === local.address.includes(':')) return source;
  return undefined;
}

/** Whether a flow has to be told of: `wireAddress` is another one than now. */
export function hasMoved(flow: KeptFlow, wanted: Wanted): boolean {
  const address = wireAddress(flow, wanted);
  return address !== undefined && address !== flow.wireLocal.address;
}

/** An endpoint at home stands for itself on the wire. */
export function isPlain({ local, wireLocal }: Pick<KeptFlow, 'local' | 'wireLocal'>): boolean {
  return isSameEndpoint(local, wireLocal);
}

/** The flows that move, each with its new place. `labelOf`: the port for an endpoint, by `endpointKey`, that has none yet. */
export function movedFlows(
  flows: readonly KeptFlow[],
  wanted: Wanted,
  labelOf: (endpoint: string) => number,
): KeptFlow[] {
  return flows.flatMap((flow) => {
    const address = wireAddress(flow, wanted);
    if (address === undefined || address === flow.wireLocal.address) return [];
    const { protocol, local, wireLocal } = flow;
    if (!wanted.isInside && address === local.address) return [{ ...flow, wireLocal: local }];
    if (flow.isLoose) return [{ ...flow, wireLocal: { address, port: local.port } }];
    const port = isPlain(flow) ? labelOf(endpointKey(protocol, local)) : wireLocal.port;
    return [{ ...flow, wireLocal: { address, port } }];
  });
}

/** What a MOVE says of them: one label an endpoint, by the name that the peer has for it. */
export function labelsOf(flows: readonly KeptFlow[]): Label[] {
  const labels = flows.map(({ protocol, local, known, wireLocal }) => ({
    protocol,
    virtual: known ?? local,
    wire: wireLocal,
  }));
  return [...new Map(labels.map((label) => [endpointKey(label.protocol, label.virtual), label])).values()];
}
