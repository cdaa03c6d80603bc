import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  decodeSyncPiece,
  encodeSyncRecord,
  SYNC_ENTRIES_MAX,
  type SyncRecord,
  SyncStreamError,
} from './sync.ts';

const index = fc.integer({ min: 0, max: SYNC_ENTRIES_MAX - 1 });
const offset = fc.integer({ min: 0, max: 2 ** 47 });
const records: fc.Arbitrary<SyncRecord> = fc.oneof(
  fc.record({
    kind: fc.constant('entry' as const),
    index,
    entry: fc.record({
      path: fc.string(),
      mode: fc.nat(0o7777),
      mtime: fc.integer().map((us) => us / 1_000),
    }),
  }),
  fc.record({ kind: fc.constant('bytes' as const), index, offset, bytes: fc.uint8Array() }),
  fc.record({ kind: fc.constant('done' as const), index, size: offset }),
  fc.record({ kind: fc.constant('gone' as const), index, path: fc.string() }),
);

const plain = (record: SyncRecord) =>
  record.kind === 'bytes' ? { ...record, bytes: [...record.bytes] } : record;

describe('records of files', () => {
  it('come out as they went in, as many as there are in a piece', () => {
    fc.assert(
      fc.property(fc.array(records, { maxLength: 20 }), (all) => {
        const piece = Buffer.concat(all.map(encodeSyncRecord));
        expect([...decodeSyncPiece(piece)].map(plain)).toEqual(all.map(plain));
      }),
    );
  });

  it('are as they have always been', () => {
    const bytes = encodeSyncRecord({ kind: 'bytes', index: 258, offset: 3, bytes: Uint8Array.of(9, 8) });
    expect(bytes.toString('hex')).toBe('0200000102000000000003000000020908');
    const done = encodeSyncRecord({ kind: 'done', index: 1, size: 65_536 });
    expect(done.toString('hex')).toBe('030000000100000001000000000000');
    const gone = encodeSyncRecord({ kind: 'gone', index: 1, path: '/a' });
    expect(gone.toString('hex')).toBe('0400000001000000000000000000022f61');
  });

  it('are all or nothing: cut short, of an unknown kind or number, or no CBOR, they are refused', () => {
    const whole = encodeSyncRecord({ kind: 'gone', index: 1, path: '/a' });
    for (let length = 1; length < whole.length; length++)
      expect(() => [...decodeSyncPiece(whole.subarray(0, length))]).toThrow(SyncStreamError);
    const strange = [
      '0500000001000000000000' + '00000000',
      '0300010000000000000000' + '00000000',
      '0100000001000000000000' + '00000001ff',
    ];
    for (const hex of strange)
      expect(() => [...decodeSyncPiece(Buffer.from(hex, 'hex'))]).toThrow(SyncStreamError);
  });

  it('of any bytes are records or an error of ours', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 64 }), (bytes) => {
        try {
          for (const record of decodeSyncPiece(Buffer.from(bytes)))
            expect(record.index).toBeLessThan(SYNC_ENTRIES_MAX);
        } catch (error) {
          expect(error).toBeInstanceOf(SyncStreamError);
        }
      }),
    );
  });
});
