import { expect, test } from 'vitest';
import {
  decodeCounters,
  decodeEgress,
  decodeListener,
  decodeSide,
  encodeEgressKey,
  encodeEgressValue,
  encodeId,
  encodeIngress,
  encodeListener,
  encodeSide,
  encodeTuple,
  LAYOUT,
} from './layout.ts';
import { COUNTERS, type FlowEntry, RELAY, type Side } from './model.ts';

const MOVED: FlowEntry = {
  protocol: 'tcp',
  local: { address: '10.77.4.2', port: 51000 },
  remote: { address: '10.77.1.2', port: 7000 },
  wireLocal: { address: '10.77.4.2', port: 51000 },
  wireRemote: [
    { endpoint: { address: '10.77.1.2', port: 7000 }, ifindex: 2 },
    { endpoint: { address: '10.77.2.2', port: 40001 }, ifindex: 3 },
  ],
  localSide: 0,
  remoteSide: 9,
  scope: 0,
  via: 0,
};

const IN_CELL: FlowEntry = {
  protocol: 'udp',
  local: { address: 'fd00:1::2', port: 7000 },
  remote: { address: 'fd00:4::2', port: 51000 },
  wireLocal: { address: 'fd00:2::2', port: 40001 },
  wireRemote: [{ endpoint: { address: 'fd00:4::2', port: 51000 }, ifindex: 2 }, undefined],
  localSide: 0x01020304,
  remoteSide: 0,
  scope: 7,
  via: 0,
};

const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex');

test('the key of the way in is the wire tuple', () => {
  const wire = {
    protocol: 'tcp',
    local: MOVED.local,
    remote: { address: '10.77.2.2', port: 40001 },
  } as const;
  expect(hex(encodeTuple(wire))).toBe(
    [
      '00000000000000000000ffff0a4d0402',
      '00000000000000000000ffff0a4d0202',
      'c738',
      '9c41',
      '06',
      '000000',
    ].join(''),
  );
});

test('the value of the way in has the virtual tuple, the sides, what the checksums change by, and the slot', () => {
  // Addresses: word 0201 of A comes, 0202 of B goes; ports: 581b comes, 419c goes (as little-endian words).
  const virtual = '00000000000000000000ffff0a4d040200000000000000000000ffff0a4d0102c7381b5806000000';
  expect(hex(encodeIngress(MOVED, 1))).toBe(
    [
      virtual,
      '00000000',
      '09000000',
      word(0x4d0a + 0x0201 - 0x4d0a - 0x0202),
      word(0x581b - 0x419c),
      '01000000',
      '00000000',
      '00000000',
    ].join(''),
  );
  expect(hex(encodeIngress(MOVED, 0))).toBe(
    [virtual, '00000000', '09000000', '0000', '0000', '00000000', '00000000', '00000000'].join(''),
  );
});

test('the way out: key with scope, value with both slots', () => {
  expect(hex(encodeEgressKey(MOVED))).toBe(
    '00000000000000000000ffff0a4d040200000000000000000000ffff0a4d0102c7381b580600000000000000',
  );
  expect(hex(encodeEgressValue(MOVED))).toBe(
    [
      '00000000000000000000ffff0a4d0402',
      'c738',
      '0000',
      '00000000',
      '09000000',
      '00000000',
      '00000000000000000000ffff0a4d0102',
      '1b58',
      '0100',
      '02000000',
      '00000000',
      '00000000000000000000ffff0a4d0202',
      '9c41',
      '0000',
      '03000000',
      word(0x0202 - 0x0201),
      word(0x419c - 0x581b),
      '00000000',
    ].join(''),
  );
});

test('IPv6, UDP, a cell and an unused slot', () => {
  expect(hex(encodeEgressKey(IN_CELL))).toBe(
    'fd000001000000000000000000000002fd0000040000000000000000000000021b58c7381100000007000000',
  );
  const value = encodeEgressValue(IN_CELL);
  expect(hex(value.subarray(0, LAYOUT.egress_value.slots))).toBe(
    'fd0000020000000000000000000000029c410000040302010000000000000000',
  );
  expect(value.subarray(LAYOUT.egress_value.slots + LAYOUT.wire_slot.bytes).every((byte) => byte === 0)).toBe(
    true,
  );
});

test.each([MOVED, IN_CELL, { ...MOVED, scope: RELAY, via: 4 }])(
  'a flow comes back from the kernel as it went in: $protocol',
  (flow) => {
    expect(decodeEgress(encodeEgressKey(flow), encodeEgressValue(flow))).toEqual(flow);
  },
);

test('with its cell at home a relayed peer is known by itself, or by the label that a program has drawn for it', () => {
  const home = { endpoint: MOVED.remote, ifindex: 1 };
  const identityOf = (port: number) => {
    const wireLocal = { address: MOVED.remote.address, port };
    const flow = { ...MOVED, scope: RELAY, via: 2, wireLocal, wireRemote: [home, undefined] as const };
    const at = LAYOUT.egress_value.slots + LAYOUT.wire_slot.identity;
    return Buffer.from(encodeEgressValue(flow)).readUInt16LE(at);
  };
  expect([identityOf(40_000), identityOf(52_000)]).toEqual([1, 0]);
});

test('sides', () => {
  const side: Side = { id: 0x0a0b0c0d, state: 'moved', active: 1, accept: 2, ifindex: 258 };
  expect(hex(encodeId(side.id))).toBe('0d0c0b0a');
  expect(hex(encodeSide(side))).toBe('020102000201000000000000');
  expect(decodeSide(encodeId(side.id), encodeSide(side))).toEqual(side);
  expect(hex(encodeSide({ id: 1, state: 'fenced', active: 0, accept: 3, ifindex: 0 }))).toBe(
    '040003000000000000000000',
  );
  expect(() => decodeSide(encodeId(5), Uint8Array.of(99, 0, 0, 0, 0, 0, 0, 0))).toThrow('side 5');
});

test('fenced listeners', () => {
  const any = { address: '::', port: 443 };
  expect(hex(encodeListener(any))).toBe('0000000000000000000000000000000001bb0600');
  expect(hex(encodeListener({ address: '0.0.0.0', port: 80 }))).toBe(
    '00000000000000000000ffff0000000000500600',
  );
  expect(decodeListener(encodeListener(any))).toEqual(any);
});

test('counters are added up over the CPUs', () => {
  const cpu = (value: number) => Uint8Array.of(value, 1, 0, 0, 0, 0, 0, 0);
  const counters = decodeCounters([[cpu(1), cpu(2)], [cpu(0)]]);
  expect(counters.translated_in).toBe(3 + 2 * 256);
  expect(counters.translated_out).toBe(256);
  expect(Object.keys(counters)).toEqual([...COUNTERS]);
});

/** A one's complement difference as two bytes, little-endian. */
function word(difference: number): string {
  const value = ((difference % 0xffff) + 0xffff) % 0xffff;
  return hex(Uint8Array.of(value & 0xff, value >> 8));
}
