import { describe, expect, it } from 'vitest';
import { bytesText, countText, durationText, rateText } from './format.ts';

describe('format', () => {
  it.each([
    [0, '0 B'],
    [999, '999 B'],
    [1000, '1.00 kB'],
    [9_996, '10.0 kB'],
    [99_960, '100 kB'],
    [999_499, '999 kB'],
    [999_500, '1.00 MB'],
    [1_234_000_000, '1.23 GB'],
    [5e16, '50000 TB'],
  ])('%d bytes are %s', (bytes, text) => {
    expect(bytesText(bytes)).toBe(text);
  });

  it.each([
    [0, '0 ms'],
    [0.4, '0 ms'],
    [999.4, '999 ms'],
    [999.6, '1.00 s'],
    [12_340, '12.3 s'],
    [59_960, '1 min 0 s'],
    [125_000, '2 min 5 s'],
  ])('%d milliseconds are %s', (ms, text) => {
    expect(durationText(ms)).toBe(text);
  });

  it('has rates and counts', () => {
    expect(rateText(8.12e8)).toBe('812 MB/s');
    expect([0, 1, 2].map((count) => countText(count, 'peer'))).toEqual(['0 peers', '1 peer', '2 peers']);
  });
});
