import { createPrivateKey, createPublicKey, diffieHellman, hkdfSync } from 'node:crypto';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import vectors from '../../fixtures/vectors/h2o.json' with { type: 'json' };
import { decode, newCellId, newTransaction, type Sealed } from './h2o.ts';
import { FOLLOW_ROWS_MAX, LEASE_SECONDS_MAX } from './h2o-follow.ts';
import { LABELS_LISTED_MAX, resolveLabels } from './h2o-labels.ts';
import { DATAGRAM_BYTES_MAX, HOPS_AT, isDrop, type Label } from './h2o-layout.ts';
import {
  type Ack,
  type Arm,
  consumeAck,
  createAck,
  createArm,
  createBye,
  createFollow,
  createHold,
  createMove,
  deriveSession,
  type Follow,
  generateKeyPair,
  type Hold,
  open,
  type Pair,
  type Role,
  type Session,
  sessionTag,
  sharedSecretCount,
} from './h2o-session.ts';

const bytes = (hex: string) => new Uint8Array(Buffer.from(hex, 'hex'));
const hex = (value: Uint8Array) => Buffer.from(value).toString('hex');

function revived<Fields>(fields: object): Fields {
  return JSON.parse(JSON.stringify(fields), (_, value) =>
    typeof value === 'string' && /^([0-9a-f]{2}){8,}$/.test(value) ? bytes(value) : value,
  );
}

function session(secret: Pair & { secretKey: Uint8Array; role: Role }): Session {
  const derived = deriveSession(secret);
  if (isDrop(derived)) throw new Error(derived.drop);
  return derived;
}

function sealedOf(datagram: Uint8Array): Sealed {
  const decoded = decode(datagram);
  if ('drop' in decoded || !('tag' in decoded.message)) throw new Error('not a sealed message');
  return decoded.message;
}

type More = Label & { readonly count: number; readonly portStep: number; readonly labelStep: number };
type GoldenMove = Parameters<typeof createMove>[1] & { readonly type: 'move'; readonly more?: More };
type Golden = GoldenMove | Hold | ({ type: 'bye' } & Parameters<typeof createBye>[1]) | Follow | Arm | Ack;

/** The labels of a golden MOVE; `more` stands for a row of them. */
function labelsOf({ labels, more }: GoldenMove): Label[] {
  const row = Array.from({ length: more?.count ?? 0 }, (_, index) => ({
    protocol: more?.protocol ?? 'tcp',
    virtual: {
      address: more?.virtual.address ?? '',
      port: (more?.virtual.port ?? 0) + index * (more?.portStep ?? 0),
    },
    wire: {
      address: more?.wire.address ?? '',
      port: (more?.wire.port ?? 0) + index * (more?.labelStep ?? 0),
    },
  }));
  return [...labels, ...row];
}

function create(keys: Session, message: Golden): Uint8Array {
  switch (message.type) {
    case 'move':
      return createMove(keys, { ...message, labels: labelsOf(message) });
    case 'hold':
      return createHold(keys, message.epoch, message);
    case 'bye':
      return createBye(keys, message);
    case 'follow':
      return createFollow(keys, message);
    case 'arm':
      return createArm(keys, message);
    case 'ack':
      return createAck(keys, message);
  }
}

const byEndpoint = (labels: readonly Label[]) => labels.map((label) => JSON.stringify(label)).toSorted();
const keys: Session = revived(vectors.sessions[0]?.session ?? {});

test.each(vectors.sealed)('golden bytes: $name', ({ fields, datagram }) => {
  const message = revived<Golden>(fields);
  expect(hex(create(keys, message))).toBe(datagram);
  const opened = open(keys, sealedOf(bytes(datagram)));
  if (message.type !== 'move') return expect(opened).toEqual(message);
  if (isDrop(opened) || opened.type !== 'move') throw new Error('not opened as a MOVE');
  const { epoch, nextPublicKey, transaction } = message;
  expect(opened).toMatchObject({ epoch, nextPublicKey, transaction });
  const labels = resolveLabels(opened.labels, labelsOf(message));
  expect('drop' in labels ? labels : byEndpoint(labels)).toEqual(byEndpoint(labelsOf(message)));
});

const DER = {
  secret: bytes('302e020100300506032b656e04220420'),
  public: bytes('302a300506032b656e032100'),
};

/** The shared secret by OpenSSL: a second opinion on @noble/curves. */
function opensslSecret(secretKey: Uint8Array, publicKey: Uint8Array): Uint8Array {
  const privateKey = createPrivateKey({
    key: Buffer.concat([DER.secret, secretKey]),
    format: 'der',
    type: 'pkcs8',
  });
  const other = createPublicKey({ key: Buffer.concat([DER.public, publicKey]), format: 'der', type: 'spki' });
  return new Uint8Array(diffieHellman({ privateKey, publicKey: other }));
}

test.each([
  ['first', vectors.keyPairs.cell, vectors.keyPairs.peer, vectors.sessions[0]],
  ['next', vectors.keyPairs.nextCell, vectors.keyPairs.nextPeer, vectors.sessions[1]],
])('both sides derive the golden %s session, and OpenSSL agrees', async (_, cell, peer, golden) => {
  const pair: Pair = revived(golden?.pair ?? {});
  const expected: Session = revived(golden?.session ?? {});
  const [cellSecret, peerSecret] = [bytes(cell.secretKey), bytes(peer.secretKey)];
  expect(session({ ...pair, secretKey: cellSecret, role: 'cell' })).toEqual(expected);
  expect(session({ ...pair, secretKey: peerSecret, role: 'peer' })).toEqual(expected);
  expect(sessionTag(pair)).toEqual(expected.tag);
  const epoch = Buffer.alloc(4);
  epoch.writeUInt32BE(pair.epoch);
  const transcript = Buffer.concat([
    Buffer.from('osmosis h2o 1'),
    pair.cell,
    epoch,
    pair.cellPublicKey,
    pair.peerPublicKey,
  ]);
  const salt = new Uint8Array(await crypto.subtle.digest('SHA-256', transcript));
  const secret = opensslSecret(cellSecret, pair.peerPublicKey);
  expect(new Uint8Array(hkdfSync('sha256', secret, salt, 'cell to peer', 32))).toEqual(expected.toPeer);
  expect(new Uint8Array(hkdfSync('sha256', secret, salt, 'peer to cell', 32))).toEqual(expected.toCell);
  expect(salt.slice(0, 8)).toEqual(expected.tag);
});

test('no shared secret is computed but by deriveSession', () => {
  const before = sharedSecretCount();
  const [cellSide, peerSide] = [generateKeyPair(), generateKeyPair()];
  const pair = {
    cell: newCellId(),
    epoch: 0,
    cellPublicKey: cellSide.publicKey,
    peerPublicKey: peerSide.publicKey,
  };
  sessionTag(pair);
  expect(sharedSecretCount()).toBe(before);
  session({ ...pair, secretKey: cellSide.secretKey, role: 'cell' });
  expect(sharedSecretCount()).toBe(before + 1);
});

// RFC 7748, section 6.1: points of small order make an all-zero secret whatever the other side's key is.
test.each([
  ['0', new Uint8Array(32)],
  ['1', new Uint8Array(32).with(0, 1)],
  ['order 8', bytes('e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800')],
  ['p - 1', bytes('ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f')],
])('a public key of small order is refused: %s', (_, weak) => {
  const { secretKey, publicKey } = generateKeyPair();
  const pair = { cell: newCellId(), epoch: 0, cellPublicKey: weak, peerPublicKey: publicKey };
  expect(deriveSession({ ...pair, secretKey, role: 'peer' })).toEqual({ drop: 'weak-key' });
});

test('every part of the transcript changes keys and tag', () => {
  const [cellSide, peerSide] = [generateKeyPair(), generateKeyPair()];
  const pair = {
    cell: newCellId(),
    epoch: 3,
    cellPublicKey: cellSide.publicKey,
    peerPublicKey: peerSide.publicKey,
  };
  const derived = [pair, { ...pair, epoch: 4 }, { ...pair, cell: newCellId() }].map((each) =>
    session({ ...each, secretKey: cellSide.secretKey, role: 'cell' }),
  );
  const all = derived.flatMap(({ tag, toPeer, toCell }) => [tag, toPeer, toCell]).map(hex);
  expect(new Set(all).size).toBe(9);
});

test('a sealed message with any bit changed never opens', () => {
  fc.assert(
    fc.property(fc.constantFrom(...vectors.sealed), fc.nat(), fc.nat(7), ({ datagram }, at, bit) => {
      // Whoever passes it on counts there.
      fc.pre(at % (datagram.length / 2) !== HOPS_AT);
      const good = bytes(datagram);
      const changed = good.with(at % good.length, (good[at % good.length] ?? 0) ^ (1 << bit));
      const decoded = decode(changed);
      if ('drop' in decoded) return;
      // A flip of the type can turn it into a HELLO; what matters is that nothing sealed comes out.
      if ('tag' in decoded.message) expect(open(keys, decoded.message)).toHaveProperty('drop');
    }),
    { numRuns: 3000 },
  );
});

test('sealed bytes of any kind open to a drop, even under the right key', () => {
  fc.assert(
    fc.property(
      fc.constantFrom(3, 4, 5, 6, 9),
      fc.uint8Array({ minLength: 16, maxLength: 200 }),
      (type, box) => {
        const detail = type === 5 || type === 6 ? 1 : 0;
        const head = [0x48, 0x32, 0x4f, 1, type, type === 6 ? 3 : detail, 0, 0];
        const datagram = Uint8Array.from([...head, ...keys.cell, ...keys.tag, 0, 0, 0, 1, ...box]);
        expect(open(keys, sealedOf(datagram))).toEqual({ drop: 'forged' });
      },
    ),
  );
});

const label = (virtual: number, wire: number, address = '10.77.1.2'): Label => ({
  protocol: 'tcp',
  virtual: { address, port: virtual },
  wire: { address: '10.77.2.2', port: wire },
});
const row = (count: number, address?: string) =>
  Array.from({ length: count }, (_, index) => label(1 + index, 20_000 + index, address));
const next = { nextPublicKey: new Uint8Array(32).fill(7), transaction: newTransaction() };

test.each([1, 24, LABELS_LISTED_MAX, LABELS_LISTED_MAX + 1, 10_000])(
  'a MOVE of %i labels is one datagram',
  (count) => {
    const labels = row(count);
    const datagram = createMove(keys, { ...next, epoch: 1, labels });
    expect(datagram.length).toBeLessThanOrEqual(DATAGRAM_BYTES_MAX);
    const move = open(keys, sealedOf(datagram));
    if (isDrop(move) || move.type !== 'move') throw new Error('not opened as a MOVE');
    expect(move.labels.armed).toHaveLength(count > LABELS_LISTED_MAX ? 1 : 0);
    expect(resolveLabels(move.labels, labels)).toEqual(labels);
    if (count <= LABELS_LISTED_MAX) return;
    expect(resolveLabels(move.labels, [])).toEqual({ drop: 'unarmed' });
    expect(resolveLabels(move.labels, labels.slice(1))).toEqual({ drop: 'unarmed' });
    expect(resolveLabels(move.labels, labels.with(5, label(6, 7)))).toEqual({ drop: 'unarmed' });
  },
);

test('labels of any number of groups come back, listed or by digest', () => {
  const groups = fc.array(fc.integer({ min: 1, max: 400 }), { minLength: 1, maxLength: 15 });
  fc.assert(
    fc.property(groups, (sizes) => {
      const labels = sizes.flatMap((size, index) => row(size, `10.0.0.${index}`));
      const datagram = createMove(keys, { ...next, epoch: 1, labels });
      expect(datagram.length).toBeLessThanOrEqual(DATAGRAM_BYTES_MAX);
      const move = open(keys, sealedOf(datagram));
      if (isDrop(move) || move.type !== 'move') throw new Error('not opened as a MOVE');
      const resolved = resolveLabels(move.labels, labels);
      expect('drop' in resolved ? resolved : byEndpoint(resolved)).toEqual(byEndpoint(labels));
    }),
    { numRuns: 40 },
  );
});

test('a FOLLOW of any rows comes back, in one datagram', () => {
  const rows = fc.integer({ min: 1, max: FOLLOW_ROWS_MAX });
  fc.assert(
    fc.property(rows, fc.integer({ min: 1, max: LEASE_SECONDS_MAX }), (count, leaseSeconds) => {
      const follow: Follow = { type: 'follow', epoch: 7, leaseSeconds, labels: row(count), ended: [] };
      const datagram = createFollow(keys, follow);
      expect(datagram.length).toBeLessThanOrEqual(DATAGRAM_BYTES_MAX);
      expect(open(keys, sealedOf(datagram))).toEqual(follow);
    }),
  );
});

test('an ACK counts for the message that was sent, and nothing else', () => {
  const ack = sealedOf(createAck(keys, { type: 'ack', epoch: 4, acknowledged: 'hold' }));
  expect(consumeAck(keys, { type: 'hold', epoch: 4 }, ack)).toMatchObject({ acknowledged: 'hold' });
  expect(consumeAck(keys, { type: 'hold', epoch: 5 }, ack)).toEqual({ drop: 'stale' });
  expect(consumeAck(keys, { type: 'bye', epoch: 4 }, ack)).toEqual({ drop: 'stale' });
  expect(consumeAck(keys, { type: 'hold', epoch: 4 }, sealedOf(createHold(keys, 4)))).toEqual({
    drop: 'type',
  });
  const others = session({
    ...vectorPair(1),
    secretKey: bytes(vectors.keyPairs.nextCell.secretKey),
    role: 'cell',
  });
  expect(consumeAck(others, { type: 'hold', epoch: 4 }, ack)).toEqual({ drop: 'session' });
});

function vectorPair(index: number): Pair {
  return revived(vectors.sessions[index]?.pair ?? {});
}
