import { expect, test } from 'vitest';
import type { SyncFact, SyncFound } from '../../agent/control/sync-protocol.ts';
import { type Comparison, planSync } from './plan.ts';

const GB = 1e9;

function fact(path: string, more: Partial<SyncFact> = {}): SyncFact {
  const what = {
    type: 'file',
    why: 'open',
    mode: 0o644,
    uid: 0,
    gid: 0,
    mtime: 0,
    size: 10,
    allocated: 4096,
  } as const;
  return { path, ...what, ...more };
}

function found(more: Partial<SyncFound> = {}): SyncFound {
  return { type: 'file', mode: 0o644, uid: 0, gid: 0, size: 10, hash: 'aa', ...more };
}

type Case = Partial<Omit<Comparison, 'hashes'>> & { readonly hash?: string | null };

function planned(one: SyncFact, here: SyncFound | null, { hash = 'aa', ...more }: Case = {}) {
  const rooms = [{ path: '/', free_bytes: 100 * GB }];
  const rest = { rooms, extra: [], problems: [], notes: [], sourceProblems: [], force: false };
  const hashes = new Map([[one.path, hash]]);
  const { rows, checks, plan } = planSync({
    facts: [one],
    found: [here],
    places: [0],
    hashes,
    ...rest,
    ...more,
  });
  const failed = checks.filter(({ ok }) => !ok).map(({ message }) => message);
  return { state: rows[0]?.state, why: rows[0]?.why, failed, checks, plan };
}

const directory = { type: 'directory', why: 'parent', mode: 0o755 } as const;
const library = { why: 'mapped', build_id: 'b1' } as const;

test.each<[string, SyncFact, SyncFound | null, Case, string]>([
  ['a file that is not there', fact('/srv/a'), null, {}, 'copy'],
  ['the same file', fact('/srv/a'), found(), {}, 'same'],
  ['another content', fact('/srv/a'), found({ hash: 'bb' }), {}, 'refused differs'],
  ['another content, with force', fact('/srv/a'), found({ hash: 'bb' }), { force: true }, 'replace'],
  ['a file that the source has no more', fact('/srv/a'), found(), { hash: null }, 'refused differs'],
  ['another size', fact('/srv/a'), found({ size: 11 }), {}, 'refused differs'],
  ['another mode', fact('/srv/a'), found({ mode: 0o600 }), {}, 'refused differs'],
  ['another owner', fact('/srv/a'), found({ uid: 33 }), {}, 'refused differs'],
  [
    'a directory in its place, with force',
    fact('/srv/a'),
    found({ type: 'directory' }),
    { force: true },
    'refused kind',
  ],
  ['a link in its place', fact('/srv/a'), found({ type: 'symlink', target: '/x' }), {}, 'refused differs'],
  ['a library that is not there', fact('/usr/lib/libx.so', library), null, {}, 'copy'],
  ['the same build', fact('/usr/lib/libx.so', library), found({ build_id: 'b1' }), {}, 'same'],
  [
    'the same build, not looked into',
    fact('/opt/libx.so', library),
    { ...found({ build_id: 'b1' }), hash: undefined } as unknown as SyncFound,
    {},
    'leave',
  ],
  [
    'another build of the system’s',
    fact('/usr/lib/libx.so', library),
    found({ build_id: 'b2' }),
    {},
    'refused system',
  ],
  [
    'the same with force',
    fact('/usr/lib/libc.so', library),
    found({ build_id: 'b2' }),
    { force: true },
    'refused system',
  ],
  [
    'another build of one’s own, with force',
    fact('/opt/libx.so', library),
    found({ build_id: 'b2' }),
    { force: true },
    'replace',
  ],
  ['a directory that is not there', fact('/srv/d', directory), null, {}, 'copy'],
  [
    'a directory of another mode',
    fact('/srv/d', directory),
    found({ type: 'directory', mode: 0o700 }),
    {},
    'same',
  ],
  [
    'one that it stands in',
    fact('/srv/d', { ...directory, why: 'directory' }),
    found({ type: 'directory', mode: 0o700 }),
    { force: true },
    'refused mode',
  ],
  [
    'a link in place of a directory',
    fact('/srv/d', directory),
    found({ type: 'symlink', target: '/x' }),
    { force: true },
    'refused kind',
  ],
  ['a link that is not there', fact('/srv/l', { type: 'symlink', target: 'a' }), null, {}, 'copy'],
  [
    'the same link',
    fact('/srv/l', { type: 'symlink', target: 'a' }),
    found({ type: 'symlink', target: 'a' }),
    {},
    'same',
  ],
  [
    'a link to elsewhere',
    fact('/srv/l', { type: 'symlink', target: 'a' }),
    found({ type: 'symlink', target: 'b' }),
    {},
    'refused differs',
  ],
  ['on a shared file system', fact('/mnt/a', { shared: true }), found({ hash: 'bb' }), {}, 'leave'],
  ['on one that is not mounted', fact('/mnt/a', { shared: true }), null, { force: true }, 'refused shared'],
  [
    'behind a link',
    fact('/srv/a'),
    null,
    { problems: [{ path: '/srv/a', problem: 'a link' }] },
    'refused blocked',
  ],
])('%s', (_what, one, here, more, expected) => {
  const { state, why, failed } = planned(one, here, more);
  expect([state, why].filter(Boolean).join(' ')).toBe(expected);
  expect(failed.length).toBe(expected.startsWith('refused') ? 1 : 0);
  for (const message of failed) expect(message).toContain(one.path);
});

test('room is looked at where the file would be, and holes need none', () => {
  const rooms = [{ path: '/srv', free_bytes: 100e6 }];
  expect(planned(fact('/srv/a', { size: GB, allocated: GB }), null, { rooms }).failed).toEqual([
    'the file system of /srv at the destination has 100 MB free, 1.07 GB are needed; make room there',
  ]);
  expect(planned(fact('/srv/a', { size: GB, allocated: 0 }), null, { rooms }).failed).toEqual([]);
  // The process writes to it: what is there is kept, and its copy written to.
  const written = fact('/srv/a', { size: GB, allocated: GB, writable: true });
  expect(planned(written, found({ size: GB }), { rooms }).failed).toHaveLength(1);
});

test('what is only at the destination is named, and goes only with force', () => {
  const extra = ['/srv/d/stale'];
  const kept = planned(fact('/srv/d/a'), null, { extra });
  expect([kept.plan.remove, kept.failed]).toEqual([0, []]);
  expect(kept.checks.map(({ message }) => message).join()).toContain('left there: /srv/d/stale');
  const removed = planned(fact('/srv/d/a'), null, { extra, force: true });
  expect(removed.plan.remove).toBe(1);
  expect(removed.plan.files).toContainEqual({ path: '/srv/d/stale', state: 'remove', bytes: 0 });
});

test('what the source can not copy stands in the way; what it leaves out is said', () => {
  const { failed, checks } = planned(fact('/srv/a'), null, {
    sourceProblems: ['/srv/fifo is a FIFO'],
    notes: ['2 sockets'],
  });
  expect(failed).toEqual(['/srv/fifo is a FIFO']);
  expect(checks).toContainEqual({ name: 'files', ok: true, message: '2 sockets' });
});
