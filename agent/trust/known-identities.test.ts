import { readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { expect, onTestFinished, test, vi } from 'vitest';
import { temporaryDirectory } from '../test-support.ts';
import { openIdentity } from './identity-file.ts';
import { KNOWN_MAX, KnownIdentities } from './known-identities.ts';

const [A, B] = ['SHA256:aaaa', 'SHA256:bbbb'] as const;
const PEER = '10.77.4.2';
const now = { replace: false, dryRun: false };

function open(path = join(temporaryDirectory(), 'known.json')) {
  const known = new KnownIdentities(path, { warn: vi.fn() });
  onTestFinished(() => known.flush());
  return { known, path };
}

test('first use: whoever came first is known there, another is a mismatch, also after a restart', () => {
  const { known, path } = open();
  expect(known.judge(PEER, A)).toBeUndefined();
  known.see(PEER, A);
  known.flush();
  for (const each of [known, open(path).known]) {
    expect(each.judge(PEER, A)).toBeUndefined();
    expect(each.judge(PEER, B)).toMatchObject({ why: 'mismatch', known: { fingerprint: A } });
    expect(each.judge('fd77::1', B)).toBeUndefined();
  }
  expect(statSync(path).mode & 0o777).toBe(0o600);
});

test('pinned: who was not pinned is refused, also who had come before', () => {
  const { known, path } = open();
  known.see(PEER, A);
  known.setPolicy('pinned');
  expect(known.judge(PEER, A)).toMatchObject({ why: 'unknown' });
  expect(known.pin([{ address: PEER, fingerprint: A }], now)).toMatchObject([
    { action: 'pinned', before: A },
  ]);
  for (const each of [known, open(path).known]) {
    expect(each.policy).toBe('pinned');
    expect(each.judge(PEER, A)).toBeUndefined();
    expect(each.judge(PEER, B)).toMatchObject({ why: 'mismatch' });
    expect(each.judge('10.77.5.2', A)).toMatchObject({ why: 'unknown' });
  }
});

test('what is revoked is refused everywhere until it is pinned again', () => {
  const { known, path } = open();
  known.see(PEER, A);
  known.see('fd77::4', A);
  expect(known.revoke(A, true)).toHaveLength(2);
  expect(known.judge(PEER, A)).toBeUndefined();
  expect(known.revoke(A, false)).toHaveLength(2);
  for (const each of [known, open(path).known]) {
    expect(each.judge('10.9.9.9', A)).toMatchObject({ why: 'revoked' });
    expect(each.judge(PEER, B)).toBeUndefined();
  }
  const pins = [{ address: PEER, fingerprint: A }];
  expect(known.pin(pins, now)).toMatchObject([{ action: 'revoked' }]);
  expect(known.judge(PEER, A)).toMatchObject({ why: 'revoked' });
  expect(known.pin(pins, { ...now, replace: true })).toMatchObject([{ action: 'pinned' }]);
  expect(known.judge(PEER, A)).toBeUndefined();
});

test('a pin overrules what was learnt; another pin only where it is told to, all or nothing', () => {
  const { known } = open();
  known.see(PEER, A);
  const pins = [
    { address: PEER, fingerprint: B },
    { address: '10.77.3.2', fingerprint: B },
  ];
  expect(known.pin(pins, { ...now, dryRun: true })).toMatchObject([
    { action: 'replaced' },
    { action: 'pinned' },
  ]);
  expect(known.judge(PEER, A)).toBeUndefined();
  known.pin(pins, now);
  expect(known.judge(PEER, A)).toMatchObject({ why: 'mismatch' });
  expect(known.pin(pins, now).map(({ action }) => action)).toEqual(['unchanged', 'unchanged']);
  const others = [
    { address: '10.77.2.2', fingerprint: A },
    ...pins.map((pin) => ({ ...pin, fingerprint: A })),
  ];
  expect(known.pin(others, now).map(({ action }) => action)).toEqual(['pinned', 'conflict', 'conflict']);
  expect(known.at('10.77.2.2')).toBeUndefined();
  known.pin(others, { ...now, replace: true });
  expect(known.judge(PEER, A)).toBeUndefined();
});

test('there is room for so many: who was learnt and not seen for longest goes, a pin stays', () => {
  const { known } = open();
  known.pin([{ address: '10.0.0.1', fingerprint: A }], now);
  for (let index = 0; index < KNOWN_MAX; index++) known.see(`10.1.${index >> 8}.${index & 255}`, B);
  known.see('10.1.0.1', B);
  known.see('10.2.0.0', B);
  expect(known.all()).toHaveLength(KNOWN_MAX);
  expect(known.at('10.0.0.1')).toBeDefined();
  expect(known.at('10.1.0.1')).toBeDefined();
  expect(known.at('10.1.0.0')).toBeUndefined();
  expect(known.at('10.1.0.2')).toBeUndefined();
});

test('a refusal is counted each time, logged now and then, and so many are kept', () => {
  const { known } = open();
  expect(known.noteRefusal(PEER, B, 'mismatch')).toBe(true);
  expect(known.noteRefusal(PEER, B, 'mismatch')).toBe(false);
  expect(known.refused()).toMatchObject([{ address: PEER, fingerprint: B, why: 'mismatch', count: 2 }]);
  for (let index = 0; index < 1_000; index++) known.noteRefusal(`10.3.0.${index}`, B, 'unknown');
  expect(known.refused()).toHaveLength(256);
});

test.each(['', '{', '{"policy":"none","known":[],"revoked":[]}', '[]'])(
  'a damaged list is not begun anew: %j',
  (text) => {
    const { path } = open();
    writeFileSync(path, text);
    expect(() => open(path)).toThrow('is damaged');
    expect(readFileSync(path, 'utf8')).toBe(text);
  },
);

test('what was learnt and can not be written down is known all the same', () => {
  const { known, path } = open();
  rmSync(dirname(path), { recursive: true });
  known.see(PEER, A);
  known.flush();
  expect(known.judge(PEER, B)).toMatchObject({ why: 'mismatch' });
});

test('the identity is made once, 0600 in a directory 0700, and a damaged one is not replaced', () => {
  const directory = join(temporaryDirectory(), 'trust');
  const { publicKey } = openIdentity(directory);
  expect(openIdentity(directory).publicKey).toEqual(publicKey);
  const path = join(directory, 'identity');
  expect([statSync(path).mode & 0o777, statSync(directory).mode & 0o777]).toEqual([0o600, 0o700]);
  for (const text of ['', 'AAAA\n', 'x'.repeat(44)]) {
    writeFileSync(path, text);
    expect(() => openIdentity(directory)).toThrow('does not hold the identity');
  }
});
