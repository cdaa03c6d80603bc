/**
 * Rules: how flows come to be without the agent. The program enters a flow for the first packet (a SYN, or any UDP
 * datagram) that has none and that a rule is there for. docs/datapath.md explains the model.
 */
import { ADDRESS_BYTES, addressBytes, addressText, type Endpoint, type Protocol } from '../address.ts';
import { OsmosisError } from '../error.ts';
import { endpointAt, PROTOCOL_NUMBERS, protocolOf, putPort, putU16, putU32, u16At, u32At } from './layout.ts';
import type { WireSlot } from './model.ts';
import { full } from './table.ts';

/** As in osmosis.bpf.c. */
export const ACCEPTS_MAX = 1_024;
export const FOLLOWS_MAX = 1_024;
export const WAYS_OUT_MAX = 1_024;
export const LABELS_MAX = 16_384;
export const RULES_MAX = 4_096;

const MAXIMA = { accept: ACCEPTS_MAX, follow: FOLLOWS_MAX, way_out: WAYS_OUT_MAX } as const;

/** As many flows one rule may have created at a time: a share of FLOWS_MAX, so that a flood leaves room for the rest. */
export const FLOWS_PER_RULE_MAX = 8_192;

/** New flows from anyone to `wire`, an endpoint of this host, become flows of the cell's `local`. */
export type Accept = {
  readonly kind: 'accept';
  readonly protocol: Protocol;
  readonly wire: Endpoint;
  readonly local: Endpoint;
  readonly localSide: number;
  /** ifindex of the host end of the cell's veth. */
  readonly scope: number;
  readonly flowsMax: number;
};

/** Ports that labels are drawn from: nothing else on this host may use them, the agent's own labels neither. */
export type LabelRange = { readonly first: number; readonly count: number };

/** New flows of this host, and of cells on it, to `remote`, an endpoint of a cell elsewhere, go where the cell is. */
export type Follow = {
  readonly kind: 'follow';
  readonly protocol: Protocol;
  readonly remote: Endpoint;
  readonly to: WireSlot;
  readonly remoteSide: number;
  /** New flows of other hosts as well: this host, which has the address of `remote`, relays them. */
  readonly labels?: LabelRange;
  readonly flowsMax: number;
};

/** New flows of the cell to addresses that begin with `bits` bits of `prefix` go out as `address` of this host. */
export type WayOut = {
  readonly kind: 'way_out';
  readonly scope: number;
  readonly prefix: string;
  /** Of an IPv4 prefix 0..32, of an IPv6 prefix 0..128. The longest prefix counts. */
  readonly bits: number;
  readonly address: string;
  /** The device that the route to the prefix leaves by. */
  readonly ifindex: number;
  readonly localSide: number;
  readonly labels: LabelRange;
  readonly flowsMax: number;
};

export type Rule = Accept | Follow | WayOut;
export const RULE_MAPS = ['accepts', 'follows', 'ways_out'] as const;
export type RuleMap = (typeof RULE_MAPS)[number];

/** What the kernel has besides the rule. */
export type NumberedRule = {
  readonly rule: Rule;
  /** 1..RULES_MAX-1; flows that it creates carry it. */
  readonly number: number;
  /** It creates flows until its element of map `spent` has come to this; both wrap around at 2^32. */
  readonly limit: number;
};

/** A label that the program has drawn for a virtual endpoint of a cell, or of a peer that is relayed for. */
export type DrawnLabel = {
  readonly protocol: Protocol;
  readonly local: Endpoint;
  readonly scope: number;
  readonly port: number;
};

export const RULE_LAYOUT = {
  place: { bytes: 20, address: 0, port: 16, protocol: 18, pad: 19 },
  rule: {
    bytes: 40,
    address: 0,
    port: 16,
    number: 18,
    ifindex: 20,
    side: 24,
    limit: 28,
    label_first: 32,
    labels: 34,
    flows_max: 36,
    pad: 38,
  },
  way_key: { bytes: 24, bits: 0, scope: 4, address: 8 },
  label_owner: { bytes: 24, local: 0, scope: 20 },
  label: { bytes: 4, port: 0, protocol: 2, pad: 3 },
} as const;

const SCOPE_BITS = 32;
const MAPPED_BITS = 96;

export function mapOf({ kind }: Rule): RuleMap {
  return ({ accept: 'accepts', follow: 'follows', way_out: 'ways_out' } as const)[kind];
}

/** @throws OsmosisError DATAPATH where the rule mixes address families or has a number that does not fit. */
export function checkRule(rule: Rule): void {
  const addresses =
    rule.kind === 'accept'
      ? [rule.wire.address, rule.local.address]
      : rule.kind === 'follow'
        ? [rule.remote.address, rule.to.endpoint.address]
        : [rule.prefix, rule.address];
  const families = new Set(addresses.map((address) => address.includes(':')));
  const { first, count } = ('labels' in rule ? rule.labels : undefined) ?? { first: 1, count: 1 };
  const fits =
    rule.flowsMax > 0 && rule.flowsMax <= 0xffff && first > 0 && count > 0 && first + count <= 0x10000;
  if (families.size === 1 && fits) return;
  const message = `rule ${JSON.stringify(rule)} mixes IPv4 and IPv6, or has a bad flowsMax or labels; this is a bug`;
  throw new OsmosisError('DATAPATH', message);
}

/** @throws OsmosisError DATAPATH where the map of a rule has no room for those that are added. */
export function checkRoom(added: readonly Rule[], there: Iterable<NumberedRule>): void {
  const all = [...added, ...[...there].map(({ rule }) => rule)];
  for (const [kind, most] of Object.entries(MAXIMA)) {
    if (all.filter((rule) => rule.kind === kind).length > most) throw full(`${most} rules (${kind})`);
  }
}

/** 0: none. */
export function sideOf(rule: Rule): number {
  return rule.kind === 'follow' ? rule.remoteSide : rule.localSide;
}

export function encodeRuleKey(rule: Rule): Uint8Array {
  if (rule.kind === 'accept') return encodePlace(rule.protocol, rule.wire);
  if (rule.kind === 'follow') return encodePlace(rule.protocol, rule.remote);
  const at = RULE_LAYOUT.way_key;
  const bytes = new Uint8Array(at.bytes);
  putU32(bytes, at.bits, SCOPE_BITS + (rule.prefix.includes(':') ? 0 : MAPPED_BITS) + rule.bits);
  putU32(bytes, at.scope, rule.scope);
  bytes.set(addressBytes(rule.prefix), at.address);
  return bytes;
}

export function encodeRuleValue({ rule, number, limit }: NumberedRule): Uint8Array {
  const at = RULE_LAYOUT.rule;
  const bytes = new Uint8Array(at.bytes);
  const { endpoint, ifindex, labels } = partsOf(rule);
  bytes.set(addressBytes(endpoint.address), at.address);
  putPort(bytes, at.port, endpoint.port);
  putU16(bytes, at.number, number);
  putU32(bytes, at.ifindex, ifindex);
  putU32(bytes, at.side, sideOf(rule));
  putU32(bytes, at.limit, limit);
  putU16(bytes, at.label_first, labels?.first ?? 0);
  putU16(bytes, at.labels, labels?.count ?? 0);
  putU16(bytes, at.flows_max, rule.flowsMax);
  return bytes;
}

export function decodeRule(map: RuleMap, key: Uint8Array, value: Uint8Array): NumberedRule {
  const at = RULE_LAYOUT.rule;
  const endpoint = endpointAt(value, at.address, at.port);
  const [ifindex, side] = [u32At(value, at.ifindex), u32At(value, at.side)];
  const numbers = { number: u16At(value, at.number), limit: u32At(value, at.limit) };
  const flowsMax = u16At(value, at.flows_max);
  const labels = { first: u16At(value, at.label_first), count: u16At(value, at.labels) };
  if (map === 'ways_out') {
    const prefix = addressText(key.subarray(RULE_LAYOUT.way_key.address));
    const own = SCOPE_BITS + (prefix.includes(':') ? 0 : MAPPED_BITS);
    const bits = u32At(key, RULE_LAYOUT.way_key.bits) - own;
    const scope = u32At(key, RULE_LAYOUT.way_key.scope);
    const { address } = endpoint;
    const way = { kind: 'way_out', scope, prefix, bits, address, ifindex, localSide: side } as const;
    return { rule: { ...way, labels, flowsMax }, ...numbers };
  }
  const { protocol, endpoint: place } = decodePlace(key);
  const both = { protocol, flowsMax };
  const rule: Rule =
    map === 'accepts'
      ? { kind: 'accept', ...both, wire: place, local: endpoint, localSide: side, scope: ifindex }
      : {
          kind: 'follow',
          ...both,
          remote: place,
          to: { endpoint, ifindex },
          remoteSide: side,
          ...(labels.count === 0 ? {} : { labels }),
        };
  return { rule, ...numbers };
}

/** Key of map `labels`. */
export function encodeOwner({ protocol, local, scope }: DrawnLabel): Uint8Array {
  const bytes = new Uint8Array(RULE_LAYOUT.label_owner.bytes);
  bytes.set(encodePlace(protocol, local), RULE_LAYOUT.label_owner.local);
  putU32(bytes, RULE_LAYOUT.label_owner.scope, scope);
  return bytes;
}

/** Key of map `drawn`, value of map `labels`. */
export function encodeLabel({ protocol, port }: Pick<DrawnLabel, 'protocol' | 'port'>): Uint8Array {
  const bytes = new Uint8Array(RULE_LAYOUT.label.bytes);
  putPort(bytes, RULE_LAYOUT.label.port, port);
  bytes[RULE_LAYOUT.label.protocol] = PROTOCOL_NUMBERS[protocol];
  return bytes;
}

/** An element of map `drawn`. */
export function decodeDrawn(key: Uint8Array, value: Uint8Array): DrawnLabel {
  const { protocol, endpoint } = decodePlace(value);
  const port = ((key[RULE_LAYOUT.label.port] ?? 0) << 8) | (key[RULE_LAYOUT.label.port + 1] ?? 0);
  return { protocol, local: endpoint, scope: u32At(value, RULE_LAYOUT.label_owner.scope), port };
}

function partsOf(rule: Rule): WireSlot & { readonly labels?: LabelRange } {
  if (rule.kind === 'accept') return { endpoint: rule.local, ifindex: rule.scope };
  if (rule.kind === 'follow') return { ...rule.to, ...(rule.labels && { labels: rule.labels }) };
  return { endpoint: { address: rule.address, port: 0 }, ifindex: rule.ifindex, labels: rule.labels };
}

function encodePlace(protocol: Protocol, { address, port }: Endpoint): Uint8Array {
  const bytes = new Uint8Array(RULE_LAYOUT.place.bytes);
  bytes.set(addressBytes(address), RULE_LAYOUT.place.address);
  putPort(bytes, RULE_LAYOUT.place.port, port);
  bytes[RULE_LAYOUT.place.protocol] = PROTOCOL_NUMBERS[protocol];
  return bytes;
}

function decodePlace(bytes: Uint8Array): { protocol: Protocol; endpoint: Endpoint } {
  const at = RULE_LAYOUT.place;
  const place = bytes.subarray(0, at.address + ADDRESS_BYTES + 4);
  return { protocol: protocolOf(place[at.protocol] ?? 0), endpoint: endpointAt(place, at.address, at.port) };
}
