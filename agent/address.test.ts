import { isIPv6 } from 'node:net';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { addressBytes, addressText, endpointText, flowKey, isLoopback } from './address.ts';

test.each([
  ['10.77.1.2', '00000000000000000000ffff0a4d0102', '10.77.1.2'],
  ['::ffff:10.77.1.2', '00000000000000000000ffff0a4d0102', '10.77.1.2'],
  ['::FFFF:a4d:102', '00000000000000000000ffff0a4d0102', '10.77.1.2'],
  ['::', '00000000000000000000000000000000', '::'],
  ['::1', '00000000000000000000000000000001', '::1'],
  ['2001:DB8:0:0:0:0:0:1', '20010db8000000000000000000000001', '2001:db8::1'],
  ['1:2:3:4:5:6:7:8', '00010002000300040005000600070008', '1:2:3:4:5:6:7:8'],
  ['64:ff9b::192.0.2.1', '0064ff9b0000000000000000c0000201', '64:ff9b::c000:201'],
  ['fe80::', 'fe800000000000000000000000000000', 'fe80::'],
])('%s is %s on the wire and %s as text', (address, hex, text) => {
  expect(Buffer.from(addressBytes(address)).toString('hex')).toBe(hex);
  expect(addressText(addressBytes(address))).toBe(text);
});

test.each(['', 'localhost', '1.2.3', '1.2.3.256', 'fe80::1%eth0', '1::2::3', '01.2.3.4'])(
  '%j is no address',
  (address) => {
    expect(() => addressBytes(address)).toThrow(RangeError);
  },
);

test('any 16 bytes survive text and back', () => {
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 16, maxLength: 16 }), (bytes) => {
      expect(addressBytes(addressText(bytes))).toEqual(bytes);
    }),
  );
});

test('every spelling of an IPv6 address is read, and written the one way', () => {
  fc.assert(
    fc.property(fc.ipV6(), (address) => {
      const text = addressText(addressBytes(address));
      expect(addressText(addressBytes(text))).toBe(text);
      expect(isIPv6(text) || /^\d+\.\d+\.\d+\.\d+$/.test(text)).toBe(true);
    }),
  );
});

test('other lengths are refused', () => {
  expect(() => addressText(new Uint8Array(4))).toThrow(RangeError);
});

test('endpoints and flows as text', () => {
  const local = { address: '10.0.0.1', port: 80 };
  const remote = { address: '2001:db8::1', port: 443 };
  expect(endpointText(remote)).toBe('[2001:db8::1]:443');
  expect(flowKey({ protocol: 'tcp', local, remote })).toBe('tcp 10.0.0.1:80 [2001:db8::1]:443');
});

test.each([
  ['127.0.0.1', true],
  ['127.8.0.1', true],
  ['::1', true],
  ['10.127.0.1', false],
  ['::', false],
])('%s is loopback: %s', (address, expected) => {
  expect(isLoopback(address)).toBe(expected);
});
