/**
 * This agent's identity at work: what it signs, and whom it believes. A signature is made once and checked once for all
 * parts of a transaction, while the process still runs: none stands between a MOVE and the flip.
 */
import { join } from 'node:path';
import { isOwnAddress } from '../host/routes.ts';
import { concatBytes, equalBytes, u32 } from '../wire/bytes.ts';
import type { Hello, Welcome } from '../wire/h2o.ts';
import {
  type Answer,
  fingerprintOf,
  fingerprintText,
  type Identity,
  identityText,
  isHelloGenuine,
  isWelcomeGenuine,
  type Offer,
  parseFingerprint,
  signHello,
  signWelcome,
} from '../wire/h2o-identity.ts';
import { FINGERPRINT_BYTES } from '../wire/h2o-layout.ts';
import { openIdentity } from './identity-file.ts';
import { type Distrust, KnownIdentities } from './known-identities.ts';
import { Recent } from './recent.ts';

/** Transactions whose signatures are remembered: of each, a peer side makes one and checks one. */
const REMEMBERED_MAX = 512;

type Log = { warn(fields: object, message: string): void };
type Signed = { readonly identity: Uint8Array; readonly signature: Uint8Array };

/** What a host makes of a HELLO. `refused.known`: what its sender is told, 32 bytes. */
export type Admittance = 'trusted' | 'unsigned' | { readonly refused: { readonly known: Uint8Array } };

export class Trust {
  readonly known: KnownIdentities;
  readonly #identity: Identity;
  readonly #log: Log;
  readonly #genuine = new Recent<true>(REMEMBERED_MAX);
  readonly #signed = new Recent<Uint8Array>(REMEMBERED_MAX);

  constructor(identity: Identity, known: KnownIdentities, log: Log) {
    this.#identity = identity;
    this.known = known;
    this.#log = log;
  }

  /** @throws OsmosisError USAGE where what the directory holds is damaged. */
  static open(directory: string, log: Log): Trust {
    const identity = openIdentity(directory);
    return new Trust(identity, new KnownIdentities(join(directory, 'known.json'), log), log);
  }

  /** SHA256:… of this host's own identity. */
  get fingerprint(): string {
    return fingerprintText(fingerprintOf(this.#identity.publicKey));
  }

  /** ssh-ed25519 … of this host's own identity. */
  get publicKey(): string {
    return identityText(this.#identity.publicKey);
  }

  /** Signs what a HELLO offers. */
  offer(offer: Omit<Offer, 'identity'>): Signed {
    const identity = this.#identity.publicKey;
    return { identity, signature: signHello(this.#identity, { ...offer, identity }) };
  }

  /** Whether to go on with a HELLO. To be asked only once its sender has been found to be where a claimed flow is. */
  admit(hello: Hello, from: string): Admittance {
    const distrust = this.judge(from, hello.identity);
    if (distrust !== undefined) {
      this.#refuse(from, hello.identity, distrust.why);
      return { refused: { known: knownBytes(distrust) } };
    }
    const { cell, transaction, epoch, publicKey, identity, signature } = hello;
    const key = textOf(cell, transaction, u32(epoch), publicKey, identity, signature);
    if (this.#genuine.get(key) === undefined) {
      if (!isHelloGenuine(hello)) return 'unsigned';
      this.#genuine.put(key, true);
    }
    return 'trusted';
  }

  /**
   * Whoever sent a HELLO from `address` has now shown that the WELCOME reached it, by what it has sealed: not before that
   * is it known, or anybody could become known at an address that is not theirs.
   */
  prove(address: string, identity: Uint8Array): void {
    if (this.judge(address, identity) === undefined) this.#learn(address, identity);
  }

  /** Signs a WELCOME, or what stands in its place where the sender of the HELLO is not trusted. */
  answer(hello: Hello, answer: Omit<Answer, 'identity'>): Signed {
    const identity = this.#identity.publicKey;
    const { cell, transaction, epoch, publicKey } = hello;
    const said = answer.untrusted?.known ?? answer.publicKey;
    const kind = Uint8Array.of(answer.untrusted === undefined ? 0 : 1);
    const key = textOf(cell, transaction, u32(epoch), publicKey, hello.identity, kind, said);
    const signature = this.#signed.get(key) ?? signWelcome(this.#identity, hello, { ...answer, identity });
    this.#signed.put(key, signature);
    return { identity, signature };
  }

  /** Whether the identity in a WELCOME has answered this offer. */
  isGenuine(offer: Offer, welcome: Welcome): boolean {
    return isWelcomeGenuine(offer, welcome);
  }

  /** A WELCOME is genuine: is it from whom this host knows at `address`? It is known from now on, or refused. */
  meet(address: string, identity: Uint8Array): Distrust | undefined {
    const distrust = this.judge(address, identity);
    if (distrust === undefined) this.#learn(address, identity);
    else this.#refuse(address, identity, distrust.why);
    return distrust;
  }

  /**
   * Whether what this identity has announced from `address` still counts. That another one was learnt there since is no
   * objection: addresses change hands, and a cell may move before its host says anything from its new one.
   */
  stands(address: string, identity: Uint8Array): boolean {
    const distrust = this.judge(address, identity);
    return distrust === undefined || (distrust.why === 'mismatch' && distrust.known?.how === 'first-use');
  }

  /** It does not, and this was sealed under its keys. */
  refuse(address: string, identity: Uint8Array): void {
    const distrust = this.judge(address, identity);
    if (distrust !== undefined) this.#refuse(address, identity, distrust.why);
  }

  judge(address: string, identity: Uint8Array): Distrust | undefined {
    return this.#isOurs(address, identity)
      ? undefined
      : this.known.judge(address, fingerprintText(fingerprintOf(identity)));
  }

  #learn(address: string, identity: Uint8Array): void {
    if (!this.#isOurs(address, identity)) this.known.see(address, fingerprintText(fingerprintOf(identity)));
  }

  /** This host talks to itself: both ends of a connection are here. */
  #isOurs(address: string, identity: Uint8Array): boolean {
    return equalBytes(identity, this.#identity.publicKey) && isOwnAddress(address);
  }

  #refuse(address: string, identity: Uint8Array, why: Distrust['why']): void {
    const fingerprint = fingerprintText(fingerprintOf(identity));
    if (!this.known.noteRefusal(address, fingerprint, why)) return;
    const known = this.known.at(address)?.fingerprint;
    this.#log.warn(
      { address, fingerprint, known, why },
      'REFUSED: an agent shows an identity that is not trusted; see osmosis trust list',
    );
  }
}

/** 32 bytes; zeros where none is known. */
function knownBytes({ known }: Distrust): Uint8Array {
  const bytes = known && parseFingerprint(known.fingerprint);
  return bytes ?? new Uint8Array(FINGERPRINT_BYTES);
}

function textOf(...fields: readonly Uint8Array[]): string {
  return Buffer.from(concatBytes(...fields)).toString('latin1');
}
