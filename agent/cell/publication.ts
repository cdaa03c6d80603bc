/** Publishing: endpoints of a moved cell's host at which anyone can reach its listeners. Pure; docs/datapath.md, "New flows". */
import {
  type Endpoint,
  endpointKey,
  endpointText,
  isLoopback,
  isSameEndpoint,
  type Protocol,
} from '../address.ts';
import { H2O_PORT } from '../wire/h2o-layout.ts';
import { isLabel, isProgramLabel } from './labels.ts';

/** What the operator wants: `address` of the host (all without), and the listener's port where it is another one. */
export type PublishSpec = {
  readonly address?: string | undefined;
  readonly port: number;
  readonly listener?: number | undefined;
};

/** New flows to `wire`, an endpoint of the host, are flows of `local`, an endpoint in the cell. */
export type Publication = { readonly protocol: Protocol; readonly wire: Endpoint; readonly local: Endpoint };

type Listener = Endpoint & { readonly protocol: Protocol };

export type PublishFacts = {
  readonly listeners: readonly Listener[];
  /** Addresses in the cell's namespace. */
  readonly addresses: readonly string[];
  /** Of this host, loopback ones left out. */
  readonly own: readonly string[];
  /** What is bound on this host: listeners, and UDP sockets. */
  readonly bound: readonly Listener[];
};

export type Published = {
  readonly publications: readonly Publication[];
  readonly problems: readonly string[];
};

/** Every spec is looked at; where there are problems nothing is to be published. */
export function publicationsOf(specs: readonly PublishSpec[], facts: PublishFacts): Published {
  const publications = new Map<string, Publication>();
  const problems: string[] = [];
  for (const spec of specs) {
    const found = publishOne(spec, facts);
    problems.push(...found.problems);
    for (const each of found.publications) {
      const key = endpointKey(each.protocol, each.wire);
      const other = publications.get(key);
      if (other !== undefined && !isSameEndpoint(other.local, each.local))
        problems.push(`${key} can't be two listeners at once`);
      publications.set(key, each);
    }
  }
  return { publications: [...publications.values()], problems };
}

function publishOne(spec: PublishSpec, facts: PublishFacts): Published {
  const { address, port } = spec;
  const none = (problem: string) => ({ publications: [], problems: [problem] });
  if (isLabel(port) || isProgramLabel(port) || port === H2O_PORT)
    return none(
      `port ${port} is one of those that Osmosis needs itself on every host; publish at another one`,
    );
  if (address !== undefined && !facts.own.includes(address))
    return none(`${address} is no address of the destination, which has ${facts.own.join(', ') || 'none'}`);
  const listeners = listenersFor(spec, facts.listeners);
  if (listeners.length === 0) return none(missing(spec, facts.listeners));
  const far = listeners.filter((listener) => !isLoopback(listener.address));
  if (far.length === 0)
    return none(
      `the listener at port ${listeners[0]?.port} takes connections from its own host only (${listeners[0]?.address})`,
    );
  const publications = far.flatMap((listener) =>
    (address === undefined ? facts.own : [address]).flatMap((own): Publication[] => {
      const inside = insideOf(listener, own, facts.addresses);
      if (inside === undefined) return [];
      const local = { address: inside, port: listener.port };
      return [{ protocol: listener.protocol, wire: { address: own, port }, local }];
    }),
  );
  if (publications.length === 0)
    return none(
      `no listener at port ${far[0]?.port} is of the address family of ${address ?? 'the destination'}`,
    );
  return { publications, problems: publications.flatMap((each) => inUse(each, facts.bound)) };
}

/** Those of the port that is named; without a name, of the same port, or the only one that there is. */
function listenersFor({ port, listener }: PublishSpec, listeners: readonly Listener[]): Listener[] {
  const same = listeners.filter((each) => each.port === (listener ?? port));
  if (same.length > 0 || listener !== undefined) return same;
  const kinds = new Set(listeners.map((each) => `${each.protocol} ${each.port}`));
  return kinds.size === 1 ? [...listeners] : [];
}

function missing({ port, listener }: PublishSpec, listeners: readonly Listener[]): string {
  const there = listeners.map((each) => `${each.protocol} ${endpointText(each)}`).join(', ') || 'none';
  const remedy = listener === undefined ? `; name one of them: ${port}=PORT` : '';
  return `the process has no listener at port ${listener ?? port} (it has ${there})${remedy}`;
}

/** The address in the cell that what comes to `own` is for; undefined where the listener is not of that family. */
function insideOf({ address }: Listener, own: string, addresses: readonly string[]): string | undefined {
  const isV6 = own.includes(':');
  if (address === '::' || address === '0.0.0.0') {
    if (address === '0.0.0.0' && isV6) return undefined;
    return addresses.find((each) => each.includes(':') === isV6);
  }
  return address.includes(':') === isV6 ? address : undefined;
}

function inUse({ protocol, wire }: Publication, bound: readonly Listener[]): string[] {
  const other = bound.find(
    (each) =>
      each.protocol === protocol &&
      each.port === wire.port &&
      (each.address === wire.address ||
        each.address === '::' ||
        (each.address === '0.0.0.0' && !wire.address.includes(':'))),
  );
  if (other === undefined) return [];
  const text = `${protocol} port ${wire.port} is in use at the destination (${endpointText(other)})`;
  return [`${text}; publish at another one, such as ${wire.port + 1}=${wire.port}, or end what has it`];
}
