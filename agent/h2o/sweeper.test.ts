import { describe, expect, it } from 'vitest';
import { RELAY } from '../datapath/model.ts';
import { firstState } from '../wire/h2o-peer.ts';
import { generateKeyPair } from '../wire/h2o-session.ts';
import type { PeerRecord } from './peer-records.ts';
import { isUnused } from './sweeper.ts';

const DAY_MS = 86_400_000;
const local = { address: '10.77.4.2', port: 51_000 };
const remote = { address: '10.77.1.2', port: 7_000 };
const id = { protocol: 'tcp', local, remote, scope: RELAY } as const;

function recordWith(changes: Partial<PeerRecord> = {}): PeerRecord {
  const keys = { ...generateKeyPair(), cellPublicKey: generateKeyPair().publicKey };
  return {
    cell: 'c0'.repeat(16),
    state: firstState('c0'.repeat(16), keys),
    side: 1,
    active: 0,
    flows: new Map(),
    claims: new Map(),
    armedAt: undefined,
    plainAt: undefined,
    touchedAt: 0,
    ...changes,
  };
}

describe('the keys of a cell', () => {
  it('are kept a few seconds after its last flow', () => {
    expect(isUnused(recordWith(), 4_000)).toBe(false);
    expect(isUnused(recordWith(), 6_000)).toBe(true);
  });

  it('are kept a day where the lease of its new flows has run out: its agent may be back', () => {
    expect(isUnused(recordWith({ lapsedAt: 1 }), DAY_MS)).toBe(false);
    expect(isUnused(recordWith({ lapsedAt: 1 }), DAY_MS + 2)).toBe(true);
  });

  it('are kept for as long as they are needed', () => {
    const flows = new Map([['x', { id, wireRemote: [undefined, undefined] as const, missing: 0 }]]);
    for (const needed of [{ flows }, { armedAt: 1 }, { follow: { until: 1, labels: [] } }])
      expect(isUnused(recordWith(needed), DAY_MS * 2)).toBe(false);
  });
});
