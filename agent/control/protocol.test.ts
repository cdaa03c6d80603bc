import { expect, test } from 'vitest';
import { snapshotWith } from '../test-support.ts';
import { sessionSchema } from './migration-protocol.ts';
import { isMethod, METHODS, type Method, requestSchema, responseSchema } from './protocol.ts';
import { snapshotSchema } from './snapshot.ts';

const migration = 'ab'.repeat(16);
const key = new Uint8Array(32);
const takes = (method: Method, params: unknown) => METHODS[method].params.safeParse(params).success;

test('a snapshot passes unchanged, and what is unknown in it is left out', () => {
  const snapshot = snapshotWith();
  expect(snapshotSchema.parse({ ...snapshot, more: 1 })).toEqual(snapshot);
});

test.each([
  ['a short cell id', { cell: 'abc' }],
  ['a port above 65535', { listeners: [{ protocol: 'tcp', address: '::', port: 65_536 }] }],
  ['another protocol', { listeners: [{ protocol: 'sctp', address: '::', port: 1 }] }],
  ['no host', { host: undefined }],
  ['a pid that is none', { pid: 1.5 }],
])('a snapshot with %s is refused', (_what, changes) => {
  expect(snapshotSchema.safeParse({ ...snapshotWith(), ...changes }).success).toBe(false);
});

test.each<[Method, unknown, boolean]>([
  ['run', { argv: ['sleep', '1'], cwd: '/', env: [['A', 'b']], as_is: false }, true],
  ['run', { argv: [], cwd: '/', env: [], as_is: false }, false],
  ['run', { argv: ['x'], cwd: '/', env: [['A']], as_is: false }, false],
  ['inspect', { target: '12' }, true],
  ['inspect', { target: 12 }, false],
  ['source.prepare', { migration, target: '1', cell: migration, drop: [], relay: [], key }, true],
  [
    'source.prepare',
    { migration, target: '1', cell: migration, drop: [], relay: [], key: key.subarray(1) },
    false,
  ],
  ['source.prepare', { migration, target: '1', cell: migration, drop: [], relay: [], key: [...key] }, false],
  ['source.commit', { migration }, true],
  ['source.commit', { migration: '../../etc' }, false],
  ['source.commit', { migration: migration.toUpperCase() }, false],
  ['source.commit', {}, false],
])('%s with %j: %s', (method, params, expected) => {
  expect(takes(method, params)).toBe(expected);
});

test('session keys have their lengths', () => {
  const session = {
    peer: '10.77.4.2',
    epoch: 1,
    transaction: new Uint8Array(8),
    cell: new Uint8Array(16),
    tag: new Uint8Array(8),
    toPeer: key,
    toCell: key,
  };
  expect(sessionSchema.safeParse(session).success).toBe(true);
  for (const field of ['transaction', 'cell', 'tag', 'toPeer', 'toCell'])
    expect(sessionSchema.safeParse({ ...session, [field]: new Uint8Array(7) }).success).toBe(false);
});

test('methods are known by their own names only', () => {
  expect(isMethod('source.abort')).toBe(true);
  for (const name of ['toString', 'constructor', '', 'source']) expect(isMethod(name)).toBe(false);
});

test('requests need a whole id; responses carry a result or an error', () => {
  expect(requestSchema.safeParse({ id: 1.5, method: 'status', params: {} }).success).toBe(false);
  expect(requestSchema.safeParse({ id: 1, method: 'anything', params: {} }).success).toBe(true);
  expect(responseSchema.safeParse({ id: 1, error: { code: 'BUSY', message: 'x' } }).success).toBe(true);
  const stranger = { code: 'BUSY', message: 'x', owner: 'peer' };
  expect(responseSchema.safeParse({ id: 1, error: stranger }).success).toBe(false);
});
