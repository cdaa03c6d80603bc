/** New flows to the endpoints that a cell had where it began: what a host that it lives on now keeps and enters for them. */
import { type Endpoint, endpointKey, isLinkLocal, isLoopback, type Protocol } from '../address.ts';
import type { Label } from '../control/protocol.ts';
import { type Accept, FLOWS_PER_RULE_MAX } from '../datapath/rules.ts';
import type { Cell } from './registry.ts';

export type Listener = Endpoint & { readonly protocol: Protocol };

/** Kept with the cell, and handed on when it moves. */
export type Forwarding = {
  /** Seconds; peers forget it after that unless it is renewed. */
  readonly lease_s: number;
  /** When the operator wanted it, ms since the epoch. */
  readonly since: number;
  /** Virtual ones. */
  readonly endpoints: readonly Listener[];
};

/** The endpoints that others know a process by which listens so; `addresses`: those that stand for "any". */
export function endpointsOf(listeners: readonly Listener[], addresses: readonly string[]): Listener[] {
  const reachable = addresses.filter((address) => !isLoopback(address) && !isLinkLocal(address));
  const all = listeners.flatMap(({ protocol, address, port }): Listener[] => {
    const any = address === '::' ? reachable : reachable.filter((each) => !each.includes(':'));
    const own = address === '::' || address === '0.0.0.0' ? any : [address];
    return own.map((each) => ({ protocol, address: each, port }));
  });
  const outside = all.filter(({ address }) => !isLoopback(address) && !isLinkLocal(address));
  return [...new Map(outside.map((each) => [endpointKey(each.protocol, each), each])).values()];
}

/** Rows of `labels` that lead to these endpoints. */
export function labelsTo(endpoints: readonly Listener[], labels: readonly Label[]): Label[] {
  const names = new Set(endpoints.map((each) => endpointKey(each.protocol, each)));
  return labels.filter(({ protocol, virtual }) => names.has(endpointKey(protocol, virtual)));
}

type Place = { readonly side: number; readonly scope: number };

/** One rule for each wire endpoint, whichever peers use it. */
export function acceptsOf(labels: readonly Label[], { side, scope }: Place): Accept[] {
  const byWire = new Map(labels.map((label) => [endpointKey(label.protocol, label.wire), label]));
  return [...byWire.values()].map(({ protocol, virtual, wire }) => ({
    kind: 'accept',
    protocol,
    wire,
    local: virtual,
    localSide: side,
    scope,
    flowsMax: FLOWS_PER_RULE_MAX,
  }));
}

/** The rules that a cell of this host has for it. */
export function acceptsAt({ forwarding, labels, link, side }: Cell): Accept[] {
  if (forwarding === undefined || link === undefined) return [];
  return acceptsOf(labelsTo(forwarding.endpoints, labels), { side, scope: link.ifindex });
}
