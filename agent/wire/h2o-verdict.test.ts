import { expect, test } from 'vitest';
import vectors from '../../fixtures/vectors/h2o.json' with { type: 'json' };
import { decode, type SealedVerdict } from './h2o.ts';
import { VERDICTS, type Verdict } from './h2o-layout.ts';
import { consumeQuery, consumeVerdict, createQuery, createVerdict, newQueryNonce } from './h2o-verdict.ts';

const bytes = (hex: string) => new Uint8Array(Buffer.from(hex, 'hex'));
const secret = { migration: bytes(vectors.migration.migration), key: bytes(vectors.migration.key) };
const verdicts = Object.keys(VERDICTS) as Verdict[];

function sealedOf(datagram: Uint8Array): SealedVerdict {
  const decoded = decode(datagram);
  if ('drop' in decoded || !('migration' in decoded.message)) throw new Error('not a QUERY or VERDICT');
  return decoded.message;
}

test.each(vectors.verdicts)('golden bytes: $name', ({ fields, datagram }) => {
  const nonce = bytes(fields.nonce);
  const verdict = verdicts.find((each) => each === fields.verdict);
  const sealed =
    verdict === undefined ? createQuery(secret, nonce) : createVerdict(secret, { nonce }, verdict);
  expect(Buffer.from(sealed).toString('hex')).toBe(datagram);
  if (verdict === undefined) expect(consumeQuery(secret, sealedOf(sealed))).toEqual({ nonce });
  else expect(consumeVerdict(secret, nonce, sealedOf(sealed))).toEqual({ verdict });
});

test('a verdict answers only the question that was asked', () => {
  const nonce = newQueryNonce();
  const old = sealedOf(createVerdict(secret, { nonce }, 'undecided'));
  expect(consumeVerdict(secret, newQueryNonce(), old)).toEqual({ drop: 'stale' });
  expect(consumeVerdict(secret, nonce, sealedOf(createQuery(secret, nonce)))).toEqual({ drop: 'type' });
  expect(consumeQuery(secret, old)).toEqual({ drop: 'type' });
});

test('another key, another migration or any changed bit is refused', () => {
  const nonce = newQueryNonce();
  const good = createVerdict(secret, { nonce }, 'abort');
  const others = [
    { ...secret, key: secret.key.with(0, 0) },
    { ...secret, migration: secret.migration.with(0, 0) },
  ];
  expect(others.map((other) => consumeVerdict(other, nonce, sealedOf(good)))).toEqual([
    { drop: 'forged' },
    { drop: 'session' },
  ]);
  for (let bit = 0; bit < good.length * 8; bit++) {
    const changed = decode(good.with(bit >> 3, (good[bit >> 3] ?? 0) ^ (1 << (bit & 7))));
    if ('drop' in changed || changed.message.type !== 'verdict') continue;
    expect(consumeVerdict(secret, nonce, changed.message)).toHaveProperty('drop');
  }
});
