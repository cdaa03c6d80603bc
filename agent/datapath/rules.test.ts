import { expect, test } from 'vitest';
import {
  ACCEPTS_MAX,
  checkRoom,
  checkRule,
  type DrawnLabel,
  decodeDrawn,
  decodeRule,
  encodeLabel,
  encodeOwner,
  encodeRuleKey,
  encodeRuleValue,
  mapOf,
  type Rule,
} from './rules.ts';

const SERVER = { address: '10.77.1.2', port: 7000 };
const LABEL = { address: '10.77.2.2', port: 40_001 };
const WAY = {
  kind: 'way_out',
  scope: 7,
  address: '10.77.2.2',
  ifindex: 2,
  localSide: 3,
  labels: { first: 52_000, count: 6_000 },
  flowsMax: 8_192,
} as const;

const RULES: Rule[] = [
  { kind: 'accept', protocol: 'tcp', wire: LABEL, local: SERVER, localSide: 3, scope: 7, flowsMax: 1 },
  {
    kind: 'follow',
    protocol: 'udp',
    remote: SERVER,
    to: { endpoint: LABEL, ifindex: 2 },
    remoteSide: 9,
    flowsMax: 0xffff,
  },
  {
    kind: 'follow',
    protocol: 'tcp',
    remote: SERVER,
    to: { endpoint: LABEL, ifindex: 2 },
    remoteSide: 9,
    labels: { first: 52_000, count: 6_000 },
    flowsMax: 8_192,
  },
  { ...WAY, prefix: '0.0.0.0', bits: 0 },
  { ...WAY, prefix: '10.77.3.0', bits: 24 },
  { ...WAY, prefix: 'fd00::', bits: 64, address: 'fd00::2' },
];

const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex');

test.each(RULES)('a rule comes back from the kernel as it went in: $kind $prefix', (rule) => {
  const numbered = { rule, number: 4_095, limit: 0xffff_fff0 };
  checkRule(rule);
  expect(decodeRule(mapOf(rule), encodeRuleKey(rule), encodeRuleValue(numbered))).toEqual(numbered);
});

test('byte for byte', () => {
  const [accept, , relay, all, narrow] = RULES;
  if (!accept || !relay || !all || !narrow) throw new RangeError('four rules');
  expect(hex(encodeRuleKey(accept))).toBe('00000000000000000000ffff0a4d02029c410600');
  expect(hex(encodeRuleValue({ rule: accept, number: 5, limit: 6 }))).toBe(
    [
      '00000000000000000000ffff0a4d0102',
      '1b58',
      '0500',
      '07000000',
      '03000000',
      '06000000',
      '0000000001000000',
    ].join(''),
  );
  expect(hex(encodeRuleValue({ rule: relay, number: 5, limit: 6 })).slice(-16)).toBe('20cb701700200000');
  // 32 bits of scope and 96 of the mapped prefix come first.
  expect(hex(encodeRuleKey(all))).toBe('800000000700000000000000000000000000ffff00000000');
  expect(hex(encodeRuleKey(narrow))).toBe('980000000700000000000000000000000000ffff0a4d0300');
});

test('drawn labels', () => {
  const label: DrawnLabel = { protocol: 'udp', local: SERVER, scope: 7, port: 46_001 };
  expect(hex(encodeLabel(label))).toBe('b3b11100');
  expect(hex(encodeOwner(label))).toBe('00000000000000000000ffff0a4d01021b58110007000000');
  expect(decodeDrawn(encodeLabel(label), encodeOwner(label))).toEqual(label);
});

test('refuses what the program could not keep apart', () => {
  expect(() => checkRule({ ...WAY, prefix: '::', bits: 0 })).toThrow('mixes IPv4 and IPv6');
  expect(() => checkRule({ ...WAY, prefix: '0.0.0.0', bits: 0, flowsMax: 0x1_0000 })).toThrow('flowsMax');
});

test('a map takes so many rules and no more', () => {
  const [accept] = RULES;
  if (!accept) throw new RangeError('one rule');
  const there = Array.from({ length: ACCEPTS_MAX - 1 }, () => ({ rule: accept, number: 1, limit: 1 }));
  checkRoom([accept, ...RULES.slice(1)], there);
  expect(() => checkRoom([accept, accept], there)).toThrow(`${ACCEPTS_MAX} rules (accept)`);
});
