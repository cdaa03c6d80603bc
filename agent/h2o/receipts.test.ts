import { afterEach, expect, test, vi } from 'vitest';
import { RECEIPT_MS_MIN, Receipts } from './receipts.ts';

const ADDRESS = '10.77.1.2';
const bearer = {
  cell: new Uint8Array(16).fill(1),
  epoch: 3,
  publicKey: new Uint8Array(32).fill(2),
  identity: new Uint8Array(32).fill(3),
};

afterEach(() => vi.useRealTimers());

test('it is good from the address that it was sent to, for that pair and that identity', () => {
  const receipts = new Receipts();
  const receipt = receipts.of(bearer, ADDRESS);
  expect(receipts.isShown({ ...bearer, receipt }, ADDRESS)).toBe(true);
  expect(receipts.of(bearer, ADDRESS)).toEqual(receipt);
  expect(receipts.isShown({ ...bearer, receipt }, '10.77.1.3')).toBe(false);
  expect(receipts.isShown({ ...bearer, receipt }, 'fd77::2')).toBe(false);
  for (const change of [
    { cell: new Uint8Array(16) },
    { epoch: 4 },
    { publicKey: new Uint8Array(32) },
    { identity: new Uint8Array(32) },
    { receipt: new Uint8Array(16) },
    { receipt: receipt.with(15, (receipt[15] ?? 0) ^ 1) },
  ])
    expect(receipts.isShown({ ...bearer, receipt, ...change }, ADDRESS)).toBe(false);
  expect(new Receipts().isShown({ ...bearer, receipt }, ADDRESS)).toBe(false);
});

test('a link-local address is as good as any, on its device', () => {
  const receipts = new Receipts();
  const receipt = receipts.of(bearer, 'fe80::1%eth0');
  expect(receipts.isShown({ ...bearer, receipt }, 'fe80::1%eth0')).toBe(true);
  expect(receipts.isShown({ ...bearer, receipt }, 'fe80::1%eth1')).toBe(false);
});

test('it runs out', () => {
  vi.useFakeTimers({ now: 5.5 * RECEIPT_MS_MIN });
  const receipts = new Receipts();
  const receipt = receipts.of(bearer, ADDRESS);
  vi.advanceTimersByTime(RECEIPT_MS_MIN);
  expect(receipts.isShown({ ...bearer, receipt }, ADDRESS)).toBe(true);
  vi.advanceTimersByTime(RECEIPT_MS_MIN);
  expect(receipts.isShown({ ...bearer, receipt }, ADDRESS)).toBe(false);
});
