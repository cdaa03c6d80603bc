/** The independent decoder of fixtures/h2o-reference, written from docs/h2o.md alone: what it and this one say of the same bytes. */
import { randomInt } from 'node:crypto';
import { join } from 'node:path';
import { execa, execaSync } from 'execa';
import { describe, expect, it } from 'vitest';
import { type Draw, drawFrom, mutated } from '../../fixtures/fuzz/mutations.ts';
import vectors from '../../fixtures/vectors/h2o.json' with { type: 'json' };
import { concatBytes } from './bytes.ts';
import { decode, type Message } from './h2o.ts';
import { DROP_REASONS, isDrop, SEALED_HEADER_BYTES } from './h2o-layout.ts';
import { open, type Session } from './h2o-session.ts';
import { consumeQuery, consumeVerdict } from './h2o-verdict.ts';
import { openBytes, sealBytes } from './seal.ts';

const CHECK = join(import.meta.dirname, '../../fixtures/h2o-reference/check.py');
const VECTORS = join(import.meta.dirname, '../../fixtures/vectors/h2o.json');
const MUTANTS = 6_000;
const CASE_MS_MAX = 60_000;

const hasPython = !execaSync('python3', ['--version'], { reject: false }).failed;
if (!hasPython)
  console.warn('SKIPPED: the independent decoder of H2O does not run, this machine has no python3');

const bytes = (hex: string) => new Uint8Array(Buffer.from(hex, 'hex'));
const hex = (value: Uint8Array) => Buffer.from(value).toString('hex');

const [pair] = vectors.sessions;
const session = Object.fromEntries(
  Object.entries(pair?.session ?? {}).map(([name, value]) => [name, bytes(value)]),
) as Session;
const secret = { migration: bytes(vectors.migration.migration), key: bytes(vectors.migration.key) };

/** Byte strings as hexadecimal, and nothing that is only of this implementation. */
function plain(message: object): object {
  const text = JSON.stringify(message, (_, value) =>
    value instanceof Uint8Array ? hex(value) : (value as unknown),
  );
  const { datagram, detail, tag, migration, ...said } = JSON.parse(text) as Record<string, unknown>;
  return said;
}

/** What a datagram says here, opened with the keys of the vectors. */
function described(datagram: Uint8Array): object {
  const decoded = decode(datagram);
  return isDrop(decoded) ? decoded : opened(decoded.message);
}

function opened(message: Message): object {
  if (message.type === 'query' || message.type === 'verdict') {
    const fields =
      message.type === 'query'
        ? consumeQuery(secret, message)
        : consumeVerdict(secret, message.nonce, message);
    if ('drop' in fields) return fields;
    return plain({ type: message.type, cell: message.migration, nonce: message.nonce, ...fields });
  }
  if (!('tag' in message)) return plain(message);
  const fields = open(session, message);
  return 'drop' in fields ? fields : plain({ cell: message.cell, ...fields });
}

/** Mutated behind its seal, for what is behind one is never looked at otherwise. */
function mutatedInside(datagram: Uint8Array, draw: Draw): Uint8Array {
  const header = datagram.subarray(0, SEALED_HEADER_BYTES);
  const key = header[4] === 6 ? session.toCell : session.toPeer;
  const nonce = concatBytes(header.subarray(4, 6), new Uint8Array(6), header.subarray(32, 36));
  const plaintext = openBytes(key, nonce, header, datagram.subarray(SEALED_HEADER_BYTES));
  if (plaintext === undefined) throw new Error('a golden datagram does not open');
  return concatBytes(header, sealBytes(key, nonce, header, mutated(plaintext, draw)));
}

function mutants(seed: number): Uint8Array[] {
  const draw = drawFrom(seed);
  const outside = [...vectors.clear, ...vectors.sealed, ...vectors.verdicts].map(({ datagram }) =>
    bytes(datagram),
  );
  const inside = vectors.sealed.map(({ datagram }) => bytes(datagram));
  return Array.from({ length: MUTANTS }, (_, index) => {
    const corpus = index % 3 === 0 ? inside : outside;
    const datagram = corpus[draw(corpus.length)] ?? new Uint8Array();
    return index % 3 === 0 ? mutatedInside(datagram, draw) : mutated(datagram, draw);
  });
}

describe.skipIf(!hasPython)('the independent decoder', () => {
  it('agrees with every golden vector', { timeout: CASE_MS_MAX }, async () => {
    const { stdout } = await execa('python3', ['-B', CHECK, VECTORS]);
    const { checks, failed } = JSON.parse(stdout) as { checks: number; failed: string[] };
    expect(failed).toEqual([]);
    expect(checks).toBeGreaterThan(100);
  });

  it('and this one say the same of mutated datagrams', { timeout: CASE_MS_MAX }, async () => {
    const seed = Number(process.env.OSMOSIS_SEED ?? randomInt(2 ** 31));
    const datagrams = mutants(seed);
    const { stdout } = await execa('python3', ['-B', CHECK, VECTORS, '--stream'], {
      input: datagrams.map((datagram) => `${hex(datagram)}\n`).join(''),
    });
    const theirs = stdout.split('\n').map((line) => JSON.parse(line) as object);
    expect(theirs).toHaveLength(MUTANTS);
    let accepted = 0;
    datagrams.forEach((datagram, index) => {
      const [ours, other] = [described(datagram), theirs[index] ?? {}];
      const context = `seed ${seed}, ${hex(datagram)}`;
      // Of several faults the specification leaves open which is counted.
      if ('drop' in ours && 'drop' in other) expect(DROP_REASONS, context).toHaveProperty([`${other.drop}`]);
      else expect({ context, ...ours }).toEqual({ context, ...other });
      if (!('drop' in ours)) accepted++;
    });
    expect(accepted, `seed ${seed}`).toBeGreaterThan(MUTANTS / 50);
  });
});
