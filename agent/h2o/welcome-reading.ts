/** The cell side's reading of WELCOMEs: who has answered, and whether to believe it. */
import type { OsmosisError } from '../error.ts';
import type { Trust } from '../trust/trust.ts';
import { peerUntrusted, untrustedByPeer } from '../trust/untrusted.ts';
import { equalBytes } from '../wire/bytes.ts';
import { HELLO_PARTS_MAX, type Welcome } from '../wire/h2o.ts';
import { fingerprintOf, fingerprintText, type Offer } from '../wire/h2o-identity.ts';

/** WELCOMEs whose signatures are checked in one exchange: two for each part, and then some for whoever disturbs it. */
export const WELCOMES_CHECKED_MAX = 2 * HELLO_PARTS_MAX + 64;

/** What to make of the WELCOMEs of one transaction. Those that say nothing are not signed, and are believed so far. */
export class WelcomeReading {
  readonly #trust: Trust;
  readonly #address: string;
  readonly #offer: Offer;
  #checksLeft = WELCOMES_CHECKED_MAX;
  /** The one that was found genuine: the other parts have the same key, identity and signature. */
  #first: Welcome | undefined;
  error: OsmosisError | undefined;

  constructor(trust: Trust, address: string, offer: Offer) {
    this.#trust = trust;
    this.#address = address;
    this.#offer = offer;
  }

  /** The peer side's key, once a WELCOME has shown it. */
  get publicKey(): Uint8Array | undefined {
    return this.#first?.publicKey;
  }

  read(welcome: Welcome): 'believed' | 'unsigned' | 'refused' {
    if (welcome.untrusted === undefined && isZero(welcome.publicKey)) return 'believed';
    // Two keys in one transaction: somebody answers in the peer's place. Neither is believed.
    if (this.#first !== undefined) return isSameAnswer(welcome, this.#first) ? 'believed' : 'unsigned';
    if (this.#checksLeft-- <= 0 || !this.#trust.isGenuine(this.#offer, welcome)) return 'unsigned';
    this.error = this.#objection(welcome);
    if (this.error !== undefined) return 'refused';
    this.#first = welcome;
    return 'believed';
  }

  #objection({ identity, untrusted }: Welcome): OsmosisError | undefined {
    const { fingerprint } = this.#trust;
    if (untrusted !== undefined) {
      const distrust = this.#trust.judge(this.#address, identity);
      // Somebody else says so in the peer's place.
      if (distrust?.why !== 'mismatch') return untrustedByPeer(this.#address, fingerprint, untrusted.known);
    }
    const distrust = this.#trust.meet(this.#address, identity);
    return distrust && peerUntrusted(this.#address, fingerprintText(fingerprintOf(identity)), distrust);
  }
}

function isZero(bytes: Uint8Array): boolean {
  return bytes.every((byte) => byte === 0);
}

function isSameAnswer(one: Welcome, other: Welcome): boolean {
  return (
    one.untrusted === undefined &&
    equalBytes(one.publicKey, other.publicKey) &&
    equalBytes(one.identity, other.identity) &&
    equalBytes(one.signature, other.signature)
  );
}
