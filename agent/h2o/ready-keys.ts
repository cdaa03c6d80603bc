import { isDrop } from '../wire/h2o-layout.ts';
import { deriveSession, generateKeyPair, type KeyPair } from '../wire/h2o-session.ts';
import type { PeerRecord } from './peer-records.ts';

/** An armed cell is about to move: what its MOVE will cost in public-key operations is spent before, off the gap's path. */
export class ReadyKeys {
  /** For the ACK of its MOVE. */
  readonly #next = new WeakMap<PeerRecord, KeyPair>();

  make(record: PeerRecord): void {
    const { state } = record;
    this.#next.set(record, this.#next.get(record) ?? generateKeyPair());
    if (state === undefined || state.session !== undefined) return;
    const { pair, secretKey } = state;
    const session = deriveSession({ ...pair, secretKey, role: 'peer' });
    if (!isDrop(session)) record.state = { ...state, session };
  }

  take(record: PeerRecord): KeyPair {
    const keys = this.#next.get(record) ?? generateKeyPair();
    this.#next.delete(record);
    return keys;
  }
}
