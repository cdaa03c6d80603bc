/** Signatures against golden bytes, and against a second implementation of Ed25519. */
import { ed25519 } from '@noble/curves/ed25519.js';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import vectors from '../../fixtures/vectors/h2o.json' with { type: 'json' };
import { decode, encodeHello, encodeWelcome, type Hello, type Welcome } from './h2o.ts';
import {
  fingerprintOf,
  fingerprintText,
  identityOf,
  identityText,
  isHelloGenuine,
  isWelcomeGenuine,
  newIdentitySeed,
  parseFingerprint,
  signHello,
  signWelcome,
} from './h2o-identity.ts';

const bytes = (hex: string) => new Uint8Array(Buffer.from(hex, 'hex'));
const hex = (data: Uint8Array) => Buffer.from(data).toString('hex');
const { cell, peer } = vectors.identities;
const own = { cell: identityOf(bytes(cell.seed)), peer: identityOf(bytes(peer.seed)) };

function messageOf(datagram: Uint8Array) {
  const decoded = decode(datagram);
  return 'drop' in decoded ? undefined : decoded.message;
}

const named = (name: string) => bytes(vectors.clear.find((each) => each.name === name)?.datagram ?? '');
const hello = messageOf(named('HELLO, armed, two groups, two runs')) as Hello;
const welcome = messageOf(named('WELCOME to the armed HELLO')) as Welcome;
const untrusted = messageOf(named('WELCOME, untrusted: another identity is known')) as Welcome;

test.each([cell, peer])('golden identity', ({ seed, publicKey, ssh, fingerprint }) => {
  const identity = identityOf(bytes(seed)).publicKey;
  expect(hex(identity)).toBe(publicKey);
  expect(hex(ed25519.getPublicKey(bytes(seed)))).toBe(publicKey);
  expect(identityText(identity)).toBe(ssh);
  expect(fingerprintText(fingerprintOf(identity))).toBe(fingerprint);
});

test.each(vectors.signed)('golden signature: $name', ({ by, message, signature }) => {
  const { seed, publicKey } = by === 'cell' ? cell : peer;
  expect(hex(ed25519.sign(bytes(message), bytes(seed)))).toBe(signature);
  expect(ed25519.verify(bytes(signature), bytes(message), bytes(publicKey), { zip215: false })).toBe(true);
});

test('what is signed is what the vectors have signed', () => {
  expect(hex(signHello(own.cell, hello))).toBe(hex(hello.signature));
  expect(hex(signWelcome(own.peer, hello, welcome))).toBe(hex(welcome.signature));
  expect(hex(signWelcome(own.peer, hello, untrusted))).toBe(hex(untrusted.signature));
  expect(isHelloGenuine(hello)).toBe(true);
  expect(isWelcomeGenuine(hello, welcome)).toBe(true);
  expect(isWelcomeGenuine(hello, untrusted)).toBe(true);
});

const anyBit = fc.record({ at: fc.integer({ min: 0, max: 1199 }), bit: fc.integer({ min: 0, max: 7 }) });

function flipped(datagram: Uint8Array, from: number, to: number, { at, bit }: { at: number; bit: number }) {
  const copy = Uint8Array.from(datagram);
  const index = from + (at % (to - from));
  copy[index] = (copy[index] ?? 0) ^ (1 << bit);
  return copy;
}

test('one bit changed anywhere in what is signed, and a HELLO is not genuine', () => {
  fc.assert(
    fc.property(anyBit, (change) => {
      const tampered = messageOf(flipped(encodeHello(hello), 8, 164, change)) as Hello;
      expect(isHelloGenuine(tampered)).toBe(false);
    }),
    { numRuns: 300 },
  );
});

test('one bit changed anywhere in what is signed, of it or of what it answers, and a WELCOME is not genuine', () => {
  for (const good of [welcome, untrusted]) {
    fc.assert(
      fc.property(anyBit, (change) => {
        const tampered = messageOf(flipped(encodeWelcome(good), 36, 164, change)) as Welcome;
        expect(isWelcomeGenuine(hello, tampered)).toBe(false);
        const other = messageOf(flipped(encodeHello(hello), 8, 100, change)) as Hello;
        expect(isWelcomeGenuine(other, good)).toBe(false);
      }),
      { numRuns: 200 },
    );
  }
});

test('a refusal is not an answer with that key, nor the other way round; a HELLO is no WELCOME', () => {
  const { known = new Uint8Array(32) } = untrusted.untrusted ?? {};
  const { untrusted: _, ...answered } = untrusted;
  expect(isWelcomeGenuine(hello, { ...answered, publicKey: known })).toBe(false);
  expect(isWelcomeGenuine(hello, { ...welcome, untrusted: { known: welcome.publicKey } })).toBe(false);
  expect(isWelcomeGenuine(hello, { ...welcome, identity: hello.identity, signature: hello.signature })).toBe(
    false,
  );
});

test('labels and claims are not signed: one signature is good for all parts', () => {
  expect(isHelloGenuine({ ...hello, part: 3, parts: 9, claims: [] } as Hello)).toBe(true);
});

test('an identity that is no point of the curve, or of small order, signs nothing that we believe', () => {
  for (const identity of [new Uint8Array(32), new Uint8Array(32).fill(255)])
    expect(isHelloGenuine({ ...hello, identity })).toBe(false);
});

test('fingerprints and keys are read as they are written, and nothing else is', () => {
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 32, maxLength: 32 }), (seed) => {
      const { publicKey } = identityOf(seed);
      const fingerprint = fingerprintOf(publicKey);
      expect(parseFingerprint(fingerprintText(fingerprint))).toEqual(fingerprint);
      expect(parseFingerprint(`${identityText(publicKey)} root@alpha\n`)).toEqual(fingerprint);
    }),
    { numRuns: 50 },
  );
  const text = identityText(own.cell.publicKey);
  for (const wrong of [
    '',
    'SHA256:',
    cell.fingerprint.slice(0, -1),
    `x${cell.fingerprint}`,
    text.slice(0, -4),
  ])
    expect(parseFingerprint(wrong)).toBeUndefined();
  expect(parseFingerprint(text.replace('ssh-ed25519 AAAAC', 'ssh-ed25519 AAAAD'))).toBeUndefined();
  expect(newIdentitySeed()).not.toEqual(newIdentitySeed());
});
