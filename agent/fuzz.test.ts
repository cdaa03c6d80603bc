/**
 * Every decoder against a million messages that are nearly right: each is taken or refused as documented, in bounded time
 * and memory. `OSMOSIS_SEED=n` repeats a run; a failure names its seed and its bytes.
 */
import { randomInt } from 'node:crypto';
import { setImmediate } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { afterAll, describe, expect, it } from 'vitest';
import { type Draw, drawFrom, mutated } from '../fixtures/fuzz/mutations.ts';
import vectors from '../fixtures/vectors/h2o.json' with { type: 'json' };
import { isMethod, METHODS, requestSchema } from './control/protocol.ts';
import { flowWith, snapshotWith } from './test-support.ts';
import { byteReader, concatBytes } from './wire/bytes.ts';
import { packPiece, unpackPiece } from './wire/compression.ts';
import { decodeMessage, encodeMessage, FrameDecoder, FrameError } from './wire/frame.ts';
import { decode, type Hello } from './wire/h2o.ts';
import { decodeArm } from './wire/h2o-arm.ts';
import { claimedFlows } from './wire/h2o-claims.ts';
import { decodeFollow } from './wire/h2o-follow.ts';
import { decodeLabels, resolveLabels } from './wire/h2o-labels.ts';
import { DATAGRAM_BYTES_MAX, DROP_REASONS, isDrop, SEALED_HEADER_BYTES } from './wire/h2o-layout.ts';
import { arm, consumeFromCell, type PeerState, pairFor } from './wire/h2o-peer.ts';
import { consumeAck, type Session } from './wire/h2o-session.ts';
import { consumeQuery, consumeVerdict } from './wire/h2o-verdict.ts';
import { decodeImagePiece, encodeImageRecord, IMAGE_PIECE_BYTES, ImageError } from './wire/image.ts';
import { openBytes, sealBytes } from './wire/seal.ts';

const SEED = Number(process.env.OSMOSIS_SEED ?? randomInt(2 ** 31));
const CASE_MS_MAX = 60_000;
/** What stays, after so many messages, of all of them. */
const KEPT_BYTES_MAX = 32 * 1024 * 1024;
/** What one message takes while it is looked at, results and garbage: a piece of an image is 1 MiB at most. */
const TAKEN_BYTES_MAX = 8 * 1024 * 1024;
const COLLECTED_EVERY = 70_000;
const TURN_EVERY = 500;
/** A prime, so that in time every kind of message has its turn. */
const WEIGHED_EVERY = 97;

setFlagsFromString('--expose-gc');
const collectGarbage = runInNewContext('gc') as () => void;

const bytes = (hex: string) => new Uint8Array(Buffer.from(hex, 'hex'));
const all = (list: readonly { readonly datagram: string }[]) => list.map(({ datagram }) => bytes(datagram));
const session = Object.fromEntries(
  Object.entries(vectors.sessions[0]?.session ?? {}).map(([name, value]) => [name, bytes(value)]),
) as Session;
const secret = { migration: bytes(vectors.migration.migration), key: bytes(vectors.migration.key) };

/** The peer side's state in which the golden datagrams arrive. */
function goldenState(): PeerState {
  const [pair] = vectors.sessions;
  const state: PeerState = {
    pair: {
      cell: bytes(pair?.pair.cell ?? ''),
      epoch: 0,
      cellPublicKey: bytes(vectors.keyPairs.cell.publicKey),
      peerPublicKey: bytes(vectors.keyPairs.peer.publicKey),
    },
    secretKey: bytes(vectors.keyPairs.peer.secretKey),
    epoch: 0,
    armed: [],
    session,
  };
  const hello = decode(bytes(vectors.clear[1]?.datagram ?? ''));
  if (isDrop(hello) || hello.message.type !== 'hello') throw new Error('not a HELLO');
  return arm(state, hello.message);
}
const state = goldenState();
/** The peer side's next keys: made once, for making them is not what is tried here. */
const nextKeys = {
  secretKey: bytes(vectors.keyPairs.nextPeer.secretKey),
  publicKey: bytes(vectors.keyPairs.nextPeer.publicKey),
};

function nonceOf(header: Uint8Array): Uint8Array {
  return concatBytes(header.subarray(4, 6), new Uint8Array(6), header.subarray(32, 36));
}

function plaintextOf(datagram: Uint8Array): Uint8Array {
  const header = datagram.subarray(0, SEALED_HEADER_BYTES);
  const key = header[4] === 6 ? session.toCell : session.toPeer;
  const box = datagram.subarray(SEALED_HEADER_BYTES);
  return openBytes(key, nonceOf(header), header, box) ?? new Uint8Array();
}

const sealed = all(vectors.sealed);
const ofType = (type: number) => sealed.filter((datagram) => datagram[4] === type).map(plaintextOf);

function documented(outcome: object): void {
  if (isDrop(outcome) && !Object.hasOwn(DROP_REASONS, outcome.drop)) throw new Error(`drop ${outcome.drop}`);
}

/** A HELLO can't name more flows than its bytes pay for, nor make more pairs than are allowed. */
function takeHello(hello: Hello): void {
  const flows = claimedFlows(hello.claims).length;
  if (flows * 2 > DATAGRAM_BYTES_MAX) throw new Error(`${flows} flows in one datagram`);
  const found = pairFor(hello, [state]);
  if (found !== undefined) arm(found, hello);
}

function takeDatagram(datagram: Uint8Array): void {
  const decoded = decode(datagram);
  documented(decoded);
  if (isDrop(decoded)) return;
  const { message } = decoded;
  if (message.type === 'hello') takeHello(message);
  else if (message.type === 'welcome') documented(message);
  else if (message.type === 'query') documented(consumeQuery(secret, message));
  else if (message.type === 'verdict') documented(consumeVerdict(secret, message.nonce, message));
  else if ('tag' in message) {
    consumeFromCell(state, message, () => nextKeys);
    documented(consumeAck(session, { type: 'move', epoch: 1 }, message));
  }
}

/** What only the other side's keys can make: a sealed message with something wrong inside. */
function takeSealed(mutant: Uint8Array, draw: Draw): void {
  const header = (sealed[draw(sealed.length)] ?? new Uint8Array()).subarray(0, SEALED_HEADER_BYTES);
  const key = header[4] === 6 ? session.toCell : session.toPeer;
  takeDatagram(concatBytes(header, sealBytes(key, nonceOf(header), header, mutant)));
}

const armed = state.armed.flatMap(({ parts }) => parts.flat());
function takeLabels(mutant: Uint8Array): void {
  const labels = decodeLabels(byteReader(mutant));
  documented(labels);
  if (isDrop(labels)) return;
  if (labels.listed.length * 4 > DATAGRAM_BYTES_MAX) throw new Error(`${labels.listed.length} labels`);
  documented(resolveLabels(labels, armed));
}

function takeArm(mutant: Uint8Array, draw: Draw): void {
  const arming = decodeArm(draw(2), byteReader(mutant));
  documented(arming);
  if (!isDrop(arming) && arming.labels.length * 4 > DATAGRAM_BYTES_MAX)
    throw new Error(`${arming.labels.length} labels`);
}

function takeFollow(mutant: Uint8Array): void {
  documented(decodeFollow(byteReader(mutant)));
}

const params = {
  status: {},
  run: { argv: ['sleep', '1'], cwd: '/', env: [['A', 'b']], name: 'x' },
  inspect: { target: '12', learn_ms: 5 },
  survey: { cell: 'c0'.repeat(16), flows: [flowWith(51_000), flowWith(51_001)] },
  preflight: { snapshot: snapshotWith() },
  'source.prepare': {
    migration: 'ab'.repeat(16),
    target: '1',
    cell: 'c0'.repeat(16),
    drop: [],
    relay: ['10.77.5.2'],
    key: new Uint8Array(32),
  },
  'source.commit': { migration: 'ab'.repeat(16) },
  __proto__: {},
  'no.such': [1, [2, [3]], { a: null, b: undefined, c: 1.5, d: -1, e: 2 ** 40, f: true }],
};
const requests = Object.entries(params).map(([method, value]) =>
  encodeMessage('request', { id: 1, method, params: value }),
);

/** As control/server.ts takes what a client sends: whatever is wrong ends the connection, or fails the one request. */
function takeFrames(mutant: Uint8Array, draw: Draw): void {
  const decoder = new FrameDecoder();
  const cut = draw(mutant.length + 1);
  const chunks = [Buffer.from(mutant.subarray(0, cut)), Buffer.from(mutant.subarray(cut))];
  for (const chunk of chunks) {
    for (const frame of decoder.push(chunk)) {
      if (frame.kind !== 'request') continue;
      const request = requestSchema.safeParse(decodeMessage(frame));
      if (request.success && isMethod(request.data.method))
        METHODS[request.data.method].params.safeParse(request.data.params);
    }
  }
}

const records = [
  { name: 'core-1.img', offset: 0, bytes: new Uint8Array(200).fill(7) },
  { name: 'empty.img', offset: 0, bytes: new Uint8Array() },
  { name: 'pages-1.img', offset: 2 ** 33, bytes: Uint8Array.from({ length: 64 }, (_, index) => index) },
];
const piece = Buffer.concat(records.map(encodeImageRecord));

function takePiece(mutant: Uint8Array): void {
  let total = 0;
  for (const record of decodeImagePiece(unpackPiece(Buffer.from(mutant)))) total += record.bytes.length;
  if (total > 4 * IMAGE_PIECE_BYTES) throw new Error(`${total} bytes out of one piece`);
}

type Target = {
  readonly name: string;
  readonly count: number;
  readonly corpus: readonly Uint8Array[];
  readonly take: (mutant: Uint8Array, draw: Draw) => void;
  /** What it may throw. */
  readonly refusal?: new (
    ...args: never[]
  ) => Error;
};

const targets: readonly Target[] = [
  {
    name: 'H2O datagrams',
    count: 540_000,
    corpus: [...all(vectors.clear), ...sealed, ...all(vectors.verdicts), ...all(vectors.drops)],
    take: takeDatagram,
  },
  {
    name: 'what H2O seals',
    count: 30_000,
    corpus: sealed.map(plaintextOf),
    take: takeSealed,
  },
  {
    name: 'labels of a MOVE',
    count: 140_000,
    corpus: ofType(3).map((plaintext) => plaintext.subarray(40)),
    take: takeLabels,
  },
  { name: 'parts of an ARM', count: 50_000, corpus: ofType(10), take: takeArm },
  { name: 'FOLLOW', count: 140_000, corpus: ofType(9), take: takeFollow },
  { name: 'control requests', count: 60_000, corpus: requests, take: takeFrames, refusal: FrameError },
  {
    name: 'pieces of an image',
    count: 40_000,
    corpus: [packPiece(piece), Buffer.concat([Uint8Array.of(0), piece]), packPiece(Buffer.alloc(5_000))],
    take: takePiece,
    refusal: ImageError,
  },
];

function memoryBytes(): number {
  const { heapUsed, arrayBuffers } = process.memoryUsage();
  return heapUsed + arrayBuffers;
}

function keptBytes(): number {
  collectGarbage();
  return memoryBytes();
}

/** False where it was refused as documented. */
function isTaken({ take, refusal }: Target, mutant: Uint8Array, draw: Draw): boolean {
  try {
    take(mutant, draw);
    return true;
  } catch (cause) {
    if (refusal !== undefined && cause instanceof refusal) return false;
    throw cause;
  }
}

/** The engine's compiler takes memory at any moment, and may have just then. */
function weighAgain(target: Target, mutant: Uint8Array): void {
  const before = keptBytes();
  isTaken(target, mutant, drawFrom(SEED));
  expect(memoryBytes() - before).toBeLessThan(TAKEN_BYTES_MAX);
}

/** How many were taken. */
async function fuzz(target: Target): Promise<number> {
  const { name, count, corpus } = target;
  const draw = drawFrom(SEED);
  const keptBefore = keptBytes();
  let taken = 0;
  for (let index = 0; index < count; index++) {
    const mutant = mutated(corpus[draw(corpus.length)] ?? new Uint8Array(), draw);
    const weighed = index % WEIGHED_EVERY === 0;
    const before = weighed ? memoryBytes() : 0;
    try {
      if (isTaken(target, mutant, draw)) taken++;
      if (weighed && memoryBytes() - before >= TAKEN_BYTES_MAX) weighAgain(target, mutant);
    } catch (cause) {
      throw new Error(`${name}, seed ${SEED}: ${Buffer.from(mutant).toString('hex')}`, { cause });
    }
    // zlib lets its memory go a turn of the event loop later.
    if (index % TURN_EVERY === 0) await setImmediate();
    if (index % COLLECTED_EVERY === 0) expect(keptBytes() - keptBefore).toBeLessThan(KEPT_BYTES_MAX);
  }
  await setImmediate();
  expect(keptBytes() - keptBefore).toBeLessThan(KEPT_BYTES_MAX);
  return taken;
}

describe(`mutated bytes, OSMOSIS_SEED=${SEED}`, () => {
  afterAll(() => expect(targets.reduce((sum, { count }) => sum + count, 0)).toBe(1_000_000));

  it.each(targets)('$name: $count', { timeout: CASE_MS_MAX }, async (target) => {
    expect(await fuzz(target)).toBeGreaterThan(0);
  });
});

describe('what is longer than it says', () => {
  it('a frame that claims 32 MiB holds what came of it', () => {
    const decoder = new FrameDecoder();
    const before = memoryBytes();
    expect([...decoder.push(Buffer.from('02000000', 'hex'))]).toEqual([]);
    expect(memoryBytes() - before).toBeLessThan(1024 * 1024);
  });

  it.each([
    ['an array of 2^32 - 1', '9affffffff'],
    ['a map of 2^32 - 1', 'baffffffff'],
    ['a byte string of 2^31', '5a80000000'],
    ['arrays in arrays', '81'.repeat(200_000)],
    ['maps in maps', 'a100'.repeat(100_000)],
  ])('CBOR: %s', (_what, hex) => {
    const before = memoryBytes();
    expect(() => decodeMessage({ kind: 'request', body: bytes(hex) })).toThrow(FrameError);
    expect(memoryBytes() - before).toBeLessThan(TAKEN_BYTES_MAX);
  });

  it('a piece of an image that decompresses to far more is refused', () => {
    const bomb = packPiece(Buffer.alloc(64 * 1024 * 1024));
    expect(bomb.length).toBeLessThan(64 * 1024);
    expect(() => unpackPiece(bomb)).toThrow(ImageError);
  });
});
