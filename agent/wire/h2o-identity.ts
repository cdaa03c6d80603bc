/**
 * Who is on the other side: each agent has an Ed25519 key pair, its identity, and signs its HELLO and WELCOME with it.
 *
 *   HELLO    "osmosis h2o 1 hello"   ‖ bytes 8 to 99 of the HELLO
 *   WELCOME  "osmosis h2o 1 welcome" ‖ bytes 8 to 99 of the HELLO that it answers ‖ its detail (1b) ‖ its bytes 36 to 99
 *
 * Bytes 8 to 99 are cell id, transaction, epoch, the sender's X25519 public key and its identity: so a signature is good for
 * one transaction, all parts of it, and for the two that exchange it. From node:crypto: it verifies twenty times faster
 * than @noble/curves, and a peer side verifies for whoever is at the right address.
 */
import assert from 'node:assert/strict';
import {
  createHash,
  createPrivateKey,
  createPublicKey,
  type KeyObject,
  randomBytes,
  sign,
  verify,
} from 'node:crypto';
import { concatBytes, equalBytes, u8, u32 } from './bytes.ts';
import type { Hello, Welcome } from './h2o.ts';
import { FINGERPRINT_BYTES, IDENTITY_BYTES, KEY_BYTES, WELCOME_ANSWERS } from './h2o-layout.ts';

const HELLO_DOMAIN = new TextEncoder().encode('osmosis h2o 1 hello');
const WELCOME_DOMAIN = new TextEncoder().encode('osmosis h2o 1 welcome');
/** What PKCS #8 and SubjectPublicKeyInfo put before the 32 bytes of an Ed25519 key (RFC 8410). */
const PKCS8_PREFIX = Uint8Array.of(
  0x30,
  0x2e,
  0x02,
  0x01,
  0x00,
  0x30,
  0x05,
  0x06,
  0x03,
  0x2b,
  0x65,
  0x70,
  0x04,
  0x22,
  0x04,
  0x20,
);
const SPKI_PREFIX = Uint8Array.of(0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00);
const SSH_KEY_TYPE = new TextEncoder().encode('ssh-ed25519');

export type Identity = { readonly secretKey: KeyObject; readonly publicKey: Uint8Array };

/** 32 random bytes that an identity is made from, and that must be kept secret. */
export function newIdentitySeed(): Uint8Array {
  return new Uint8Array(randomBytes(IDENTITY_BYTES));
}

/** The identity of a seed (RFC 8032: the private key). */
export function identityOf(seed: Uint8Array): Identity {
  assert.equal(seed.length, IDENTITY_BYTES);
  const der = Buffer.concat([PKCS8_PREFIX, seed]);
  const secretKey = createPrivateKey({ key: der, format: 'der', type: 'pkcs8' });
  der.fill(0);
  const spki = createPublicKey(secretKey).export({ format: 'der', type: 'spki' });
  return { secretKey, publicKey: new Uint8Array(spki.subarray(SPKI_PREFIX.length)) };
}

/** What a HELLO offers in all its parts. */
export type Offer = Pick<Hello, 'cell' | 'transaction' | 'epoch' | 'publicKey' | 'identity'>;
/** What a WELCOME answers in all its parts. */
export type Answer = Pick<Welcome, 'publicKey' | 'identity' | 'untrusted'>;

function offered({ cell, transaction, epoch, publicKey, identity }: Offer): Uint8Array {
  return concatBytes(cell, transaction, u32(epoch), publicKey, identity);
}

function helloTranscript(offer: Offer): Uint8Array {
  return concatBytes(HELLO_DOMAIN, offered(offer));
}

function welcomeTranscript(offer: Offer, { publicKey, identity, untrusted }: Answer): Uint8Array {
  const detail = WELCOME_ANSWERS[untrusted === undefined ? 'answered' : 'untrusted'];
  return concatBytes(
    WELCOME_DOMAIN,
    offered(offer),
    u8(detail),
    untrusted === undefined ? publicKey : untrusted.known,
    identity,
  );
}

/** 64 bytes, for every part of the transaction. */
export function signHello({ secretKey }: Identity, offer: Offer): Uint8Array {
  return new Uint8Array(sign(null, helloTranscript(offer), secretKey));
}

/** 64 bytes, for every part of the transaction that is answered so. */
export function signWelcome({ secretKey }: Identity, offer: Offer, answer: Answer): Uint8Array {
  return new Uint8Array(sign(null, welcomeTranscript(offer, answer), secretKey));
}

/** Whether whoever has this identity has made this offer. Never throws. */
export function isHelloGenuine(hello: Offer & Pick<Hello, 'signature'>): boolean {
  return isSigned(helloTranscript(hello), hello.identity, hello.signature);
}

/** Whether whoever has the identity in it has given this answer, to this offer. Never throws. */
export function isWelcomeGenuine(offer: Offer, welcome: Answer & Pick<Welcome, 'signature'>): boolean {
  return isSigned(welcomeTranscript(offer, welcome), welcome.identity, welcome.signature);
}

function isSigned(transcript: Uint8Array, identity: Uint8Array, signature: Uint8Array): boolean {
  try {
    const key = createPublicKey({
      key: Buffer.concat([SPKI_PREFIX, identity]),
      format: 'der',
      type: 'spki',
    });
    return verify(null, transcript, key, signature);
  } catch {
    // OpenSSL may refuse bytes that are no point of the curve.
    return false;
  }
}

/** The identity as ssh(1) would write it: the second field of a line of authorized_keys, before base64. */
function sshBlob(identity: Uint8Array): Uint8Array {
  return concatBytes(u32(SSH_KEY_TYPE.length), SSH_KEY_TYPE, u32(KEY_BYTES), identity);
}

/** SHA-256 of the identity in SSH's encoding (RFC 4253, section 6.6; RFC 8709): what ssh-keygen -l computes. */
export function fingerprintOf(identity: Uint8Array): Uint8Array {
  assert.equal(identity.length, IDENTITY_BYTES);
  return new Uint8Array(createHash('sha256').update(sshBlob(identity)).digest());
}

/** `SHA256:` and base64 without padding. */
export function fingerprintText(fingerprint: Uint8Array): string {
  assert.equal(fingerprint.length, FINGERPRINT_BYTES);
  return `SHA256:${Buffer.from(fingerprint).toString('base64').replace(/=+$/, '')}`;
}

/** `ssh-ed25519 AAAA…` */
export function identityText(identity: Uint8Array): string {
  return `ssh-ed25519 ${Buffer.from(sshBlob(identity)).toString('base64')}`;
}

/** The fingerprint in `SHA256:…`, or of the key in `ssh-ed25519 AAAA…` (a comment may follow); undefined if it is neither. */
export function parseFingerprint(text: string): Uint8Array | undefined {
  const hash = /^SHA256:([A-Za-z0-9+/]{43})=?$/.exec(text.trim())?.[1];
  if (hash !== undefined) {
    const bytes = new Uint8Array(Buffer.from(hash, 'base64'));
    return fingerprintText(bytes) === `SHA256:${hash}` ? bytes : undefined;
  }
  const blob = /^ssh-ed25519 ([A-Za-z0-9+/]+=*)(\s|$)/.exec(text.trim())?.[1];
  if (blob === undefined) return undefined;
  const bytes = new Uint8Array(Buffer.from(blob, 'base64'));
  const identity = bytes.slice(-IDENTITY_BYTES);
  const isKey = identity.length === IDENTITY_BYTES && equalBytes(bytes, sshBlob(identity));
  return isKey ? fingerprintOf(identity) : undefined;
}
