import fc from 'fast-check';
import { expect, test } from 'vitest';
import vectors from '../../fixtures/vectors/h2o.json' with { type: 'json' };
import { flowKey, PROTOCOLS } from '../address.ts';
import { OsmosisError } from '../error.ts';
import {
  answers,
  decode,
  encodeHello,
  encodeWelcome,
  HELLO_PARTS_MAX,
  type Hello,
  newCellId,
  newTransaction,
  splitHello,
  type Welcome,
} from './h2o.ts';
import { type Claim, claimedFlows } from './h2o-claims.ts';
import { MOVE_GROUPS_MAX } from './h2o-labels.ts';
import { DATAGRAM_BYTES_MAX, DROP_REASONS } from './h2o-layout.ts';

const bytes = (hex: string) => new Uint8Array(Buffer.from(hex, 'hex'));

/** Hexadecimal strings of the vectors' fields as bytes. */
function revived(fields: object): unknown {
  return JSON.parse(JSON.stringify(fields), (_, value) =>
    typeof value === 'string' && /^([0-9a-f]{2}){8,}$/.test(value) ? bytes(value) : value,
  );
}

function encodeClear(message: Hello | Welcome): Uint8Array {
  return message.type === 'hello' ? encodeHello(message) : encodeWelcome(message);
}

test.each(vectors.clear)('golden bytes: $name', ({ fields, datagram }) => {
  const message = revived(fields) as Hello | Welcome;
  expect(Buffer.from(encodeClear(message)).toString('hex')).toBe(datagram);
  expect(decode(bytes(datagram))).toEqual({ message });
});

test.each(vectors.drops)('dropped: $name', ({ drop, datagram }) => {
  expect(decode(bytes(datagram))).toEqual({ drop });
});

const port = fc.integer({ min: 1, max: 65535 });
const v4 = fc.constantFrom('10.77.1.2', '10.77.2.2', '192.0.2.255', '0.0.0.0');
const v6 = fc.constantFrom('2001:db8::1', 'fe80::1:0:0:2', '::1', '2001:db8:1:2:3:4:5:6');

const claim: fc.Arbitrary<Claim> = fc.constantFrom(v4, v6).chain((address) => {
  const endpoint = fc.record({ address, port });
  return fc.record(
    {
      protocol: fc.constantFrom(...PROTOCOLS),
      local: endpoint,
      peerAddress: address,
      peerPorts: fc.array(port, { minLength: 1, maxLength: 5 }),
      arm: endpoint,
    },
    { requiredKeys: ['protocol', 'local', 'peerAddress', 'peerPorts'], noNullPrototype: true },
  );
});

const fixed = (length: number) => fc.uint8Array({ minLength: length, maxLength: length });
const part = {
  cell: fixed(16),
  transaction: fixed(8),
  epoch: fc.integer({ min: 0, max: 0xffff_ffff }),
  publicKey: fixed(32),
  identity: fixed(32),
  signature: fixed(64),
  part: fc.constant(2),
  parts: fc.integer({ min: 3, max: HELLO_PARTS_MAX }),
};
const hello: fc.Arbitrary<Hello> = fc.record(
  {
    type: fc.constant('hello' as const),
    ...part,
    receipt: fixed(16),
    claims: fc.array(claim, { minLength: 1, maxLength: 12 }),
  },
  { noNullPrototype: true },
);
const answered: fc.Arbitrary<Welcome> = fc.record(
  {
    type: fc.constant('welcome' as const),
    ...part,
    // Without a key nothing is said.
    publicKey: fixed(32).map((key) => key.with(0, 9)),
    claimable: fc.array(fc.boolean(), { minLength: 1, maxLength: 600 }),
  },
  { noNullPrototype: true },
);
const zeros = (length: number) => new Uint8Array(length);
const none = ({ claimable }: Welcome) => ({ claimable: claimable.map(() => false), publicKey: zeros(32) });
const welcome: fc.Arbitrary<Welcome> = fc.oneof(
  answered,
  answered.map((each) => ({ ...each, ...none(each), identity: zeros(32), signature: zeros(64) })),
  fc
    .tuple(answered, fc.oneof(fixed(32), fc.constant(zeros(32))))
    .map(([each, known]) => ({ ...each, ...none(each), untrusted: { known } })),
  fc.tuple(answered, fixed(16)).map(([each, receipt]) => ({
    ...each,
    ...none(each),
    identity: zeros(32),
    signature: zeros(64),
    receipt: receipt.with(0, 9),
  })),
);

test('what was encoded decodes to itself', () => {
  fc.assert(
    fc.property(fc.oneof(hello, welcome), (message) => {
      expect(decode(encodeClear(message))).toEqual({ message });
    }),
  );
});

test('any bytes decode to a message or to a known drop', () => {
  const anything = fc.oneof(
    fc.uint8Array({ maxLength: DATAGRAM_BYTES_MAX + 1 }),
    // The beginning right, so that the fuzz reaches the fields behind it.
    fc.tuple(fc.integer({ min: 0, max: 10 }), fc.uint8Array({ maxLength: 300 })).map(([type, rest]) => {
      const head = [0x48, 0x32, 0x4f, 1, type, 0, 0, 0];
      return Uint8Array.from([...head, ...new Uint8Array(16), ...rest]);
    }),
    // One byte of a good message changed.
    fc
      .tuple(fc.oneof(hello, welcome), fc.nat(), fc.nat(255))
      .map(([message, at, value]) =>
        encodeClear(message).map((byte, index, all) => (index === at % all.length ? value : byte)),
      ),
  );
  fc.assert(
    fc.property(anything, (datagram) => {
      const decoded = decode(datagram);
      if ('drop' in decoded) expect(DROP_REASONS).toHaveProperty([decoded.drop]);
      else expect(decoded.message.type).toBeTypeOf('string');
    }),
    { numRuns: 2000 },
  );
});

test('a HELLO cut anywhere, or with anything after it, is dropped', () => {
  fc.assert(
    fc.property(hello, fc.nat(), fixed(3), (message, at, more) => {
      const datagram = encodeHello(message);
      expect(decode(datagram.slice(0, at % datagram.length))).toHaveProperty('drop');
      expect(decode(Uint8Array.from([...datagram, ...more]))).toEqual({ drop: 'trailing' });
    }),
  );
});

const offer = {
  cell: newCellId(),
  transaction: newTransaction(),
  epoch: 0,
  publicKey: new Uint8Array(32).fill(9),
  identity: new Uint8Array(32).fill(8),
  signature: new Uint8Array(64).fill(7),
};
const receipt = new Uint8Array(16).fill(6);

function everyFlow(claims: readonly Claim[]): string[] {
  return claimedFlows(claims).map(flowKey).toSorted();
}

test('a HELLO in parts claims the same flows, one datagram each, and no WELCOME is longer than its part', () => {
  const long = claim.chain((one) =>
    fc.array(port, { minLength: 1, maxLength: 900 }).map((peerPorts) => ({ ...one, peerPorts })),
  );
  fc.assert(
    fc.property(fc.array(fc.oneof(claim, long), { minLength: 1, maxLength: 40 }), (claims) => {
      const parts = splitHello({
        ...offer,
        receipt,
        claims: claims.map(({ arm: _, ...unarmed }) => unarmed),
      });
      expect(everyFlow(parts.flatMap((each) => each.claims))).toEqual(everyFlow(claims));
      for (const each of parts) {
        const datagram = encodeHello(each);
        expect(datagram.length).toBeLessThanOrEqual(DATAGRAM_BYTES_MAX);
        expect(decode(datagram)).toEqual({ message: each });
        const claimable = claimedFlows(each.claims).map(() => true);
        const answer: Welcome = { ...offer, type: 'welcome', part: each.part, parts: each.parts, claimable };
        expect(encodeWelcome(answer).length).toBeLessThanOrEqual(datagram.length);
        expect(answers(answer, each)).toBe(true);
      }
    }),
    { numRuns: 50 },
  );
});

const ports = Array.from({ length: 10_000 }, (_, index) => 20_000 + index);
const [local, arm] = [
  { address: '10.77.1.2', port: 7000 },
  { address: '10.77.2.2', port: 40_001 },
];
const incoming: Claim[] = [{ protocol: 'tcp', local, peerAddress: '10.77.4.2', peerPorts: ports, arm }];
const outgoing: Claim[] = ports.map((each) => ({
  protocol: 'tcp',
  local: { address: '10.77.1.2', port: each },
  peerAddress: '10.77.4.2',
  peerPorts: [80],
  arm: { address: '10.77.2.2', port: each + 20_000 },
}));

test.each([
  ['incoming', incoming, 21],
  ['outgoing', outgoing, 84],
])('10,000 %s connections', (_, claims, expected) => {
  const parts = splitHello({ ...offer, receipt, claims });
  expect(parts).toHaveLength(expected);
  expect(everyFlow(parts.flatMap((each) => each.claims))).toEqual(everyFlow(claims));
  expect(Math.max(...parts.map((each) => encodeHello(each).length))).toBeLessThanOrEqual(DATAGRAM_BYTES_MAX);
});

function refusal(claims: readonly Claim[]): unknown {
  try {
    return splitHello({ ...offer, receipt, claims });
  } catch (error) {
    return error instanceof OsmosisError ? error.code : error;
  }
}

test('what a HELLO or the MOVE after it cannot say is refused while the process still runs', () => {
  const twice = outgoing.map((each) => ({ ...each, protocol: 'udp' as const }));
  expect(refusal([...outgoing, ...twice])).toBe('PREFLIGHT');
  const homes = Array.from({ length: MOVE_GROUPS_MAX + 1 }, (_, index) => `10.1.0.${index}`);
  const scattered = homes.map(
    (address) => ({ ...incoming[0], local: { address, port: 7000 }, peerPorts: [80] }) as Claim,
  );
  expect(refusal(scattered)).toBe('PREFLIGHT');
  expect(refusal(scattered.slice(1))).toHaveLength(1);
});

test('a WELCOME of another HELLO, part or size answers nothing', () => {
  const [first] = splitHello({ ...offer, receipt, claims: incoming });
  if (first === undefined) throw new Error('no part');
  const claimable = claimedFlows(first.claims).map(() => true);
  const answer: Welcome = { ...offer, type: 'welcome', part: first.part, parts: first.parts, claimable };
  expect(answers(answer, first)).toBe(true);
  expect(answers({ ...answer, transaction: newTransaction() }, first)).toBe(false);
  expect(answers({ ...answer, cell: newCellId() }, first)).toBe(false);
  expect(answers({ ...answer, part: 1 }, first)).toBe(false);
  expect(answers({ ...answer, epoch: 1 }, first)).toBe(false);
  expect(answers({ ...answer, claimable: claimable.slice(1) }, first)).toBe(false);
});
