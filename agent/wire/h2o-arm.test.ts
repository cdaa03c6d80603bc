import fc from 'fast-check';
import { expect, test } from 'vitest';
import { byteReader } from './bytes.ts';
import { ARM_LABELS_MAX, canArm, decodeArm, encodeArm, packLabels } from './h2o-arm.ts';
import { ARM_PARTS_MAX, DATAGRAM_BYTES_MAX, isDrop, type Label } from './h2o-layout.ts';
import { createArm, type Session } from './h2o-session.ts';

const session: Session = {
  cell: new Uint8Array(16),
  tag: new Uint8Array(8),
  toPeer: new Uint8Array(32),
  toCell: new Uint8Array(32),
};
const transaction = new Uint8Array(8).fill(7);

const labelsOf = (count: number, address = '10.77.1.2'): Label[] =>
  Array.from({ length: count }, (_, index) => ({
    protocol: 'tcp',
    virtual: { address, port: 1 + index },
    wire: { address: '10.77.2.2', port: 1 + index },
  }));

test('parts say all of the labels, each once, in a datagram each', () => {
  const counts = fc.array(fc.integer({ min: 1, max: 900 }), { minLength: 1, maxLength: 16 });
  fc.assert(
    fc.property(counts, (groups) => {
      const labels = groups.flatMap((count, index) => labelsOf(count, `10.77.1.${index + 1}`));
      const parts = packLabels(labels);
      const said = parts.flatMap((its, part) => {
        const arm = { part, parts: parts.length, transaction, labels: its };
        expect(createArm(session, { ...arm, epoch: 1 }).length).toBeLessThanOrEqual(DATAGRAM_BYTES_MAX);
        const decoded = decodeArm(part, byteReader(encodeArm(arm)));
        if (isDrop(decoded)) throw new Error(decoded.drop);
        return decoded.labels;
      });
      expect(said).toEqual(labels);
      expect(parts.length).toBeLessThanOrEqual(Math.ceil(labels.length / ARM_LABELS_MAX) + groups.length);
    }),
    { numRuns: 50 },
  );
});

test('as many as there are parts for, no more', () => {
  const most = ARM_PARTS_MAX * ARM_LABELS_MAX;
  expect([canArm(labelsOf(most)), canArm(labelsOf(most + 1))]).toEqual([true, false]);
  expect(() => packLabels(labelsOf(most + 1))).toThrow(/the limit is 128/);
});

test.each([
  ['too-short', 0, new Uint8Array(11)],
  ['reserved', 0, Uint8Array.of(...transaction, 1, 1, 0, 1)],
  ['count', 0, Uint8Array.of(...transaction, 1, 0, 0, 0)],
  ['count', 1, Uint8Array.of(...transaction, 1, 1, 0, 0)],
  ['count', 0, Uint8Array.of(...transaction, 129, 1, 0, 0)],
  ['trailing', 0, Uint8Array.of(...encodeArm({ transaction, parts: 1, labels: labelsOf(1) }), 0)],
])('%s', (drop, part, plaintext) => {
  expect(decodeArm(part, byteReader(plaintext))).toEqual({ drop });
});

test('a group by digest is no arming', () => {
  const listed = encodeArm({ transaction, parts: 1, labels: labelsOf(8) });
  expect(decodeArm(0, byteReader(listed.with(13, 1)))).toEqual({ drop: 'value' });
});
