import { expect, test } from 'vitest';
import type { FileFact, HostFacts, Snapshot } from '../control/protocol.ts';
import { hostFactsWith, snapshotWith } from '../test-support.ts';
import { compareVersions, criuMin, preflightChecks } from './preflight.ts';

const GIB = 1024 ** 3;

type Case = {
  readonly at: Partial<Snapshot>;
  readonly source: Partial<HostFacts>;
  readonly own: Partial<HostFacts>;
  readonly there: readonly FileFact[];
};

/** Names and messages of the checks that fail when beta takes what alpha has. */
function failures({ at = {}, source = {}, own = {}, there = [] }: Partial<Case>): string[] {
  const snapshot = snapshotWith({ host: hostFactsWith(source), ...at });
  const beta = hostFactsWith({ hostname: 'beta', machine_id: 'beta', ...own });
  const lookup = (path: string) => there.find((fact) => fact.path === path);
  return preflightChecks(snapshot, beta, lookup)
    .filter(({ ok }) => !ok)
    .map(({ name, message }) => `${name}: ${message}`);
}

const binary: FileFact = { path: '/usr/bin/server', kind: 'executable', size: 100, build_id: 'aa' };

test('two equal hosts: nothing fails, and every check says what it found', () => {
  const checks = preflightChecks(snapshotWith({ files: [binary] }), hostFactsWith(), () => binary);
  expect(checks.map(({ name }) => name)).toEqual([
    'CRIU at the source',
    'CRIU at the destination',
    'kernel',
    'cpu',
    'room',
    'files',
  ]);
  expect(checks.every(({ ok, message }) => ok && message !== '')).toBe(true);
});

test.each<[string, Partial<Case>, string]>([
  [
    'no CRIU here',
    { own: { criu: null } },
    'CRIU at the destination: beta has no working criu in PATH; install CRIU 4.2',
  ],
  ['no CRIU there', { source: { criu: null } }, 'CRIU at the source: alpha has no working criu'],
  [
    'an old CRIU',
    { own: { criu: '4.1.1' } },
    'CRIU at the destination: beta has CRIU 4.1.1; install CRIU 4.2 or newer',
  ],
  [
    'an older kernel',
    { own: { kernel: '6.17.9' } },
    'kernel: 6.18.5 (x64) to 6.17.9 (x64): the destination must be',
  ],
  ['another architecture', { own: { arch: 'arm64' } }, 'kernel: 6.18.5 (x64) to 6.18.5 (arm64)'],
  [
    'missing CPU features',
    { own: { cpu_flags: ['sse2'] } },
    'cpu: beta lacks CPU features of the source: avx;',
  ],
  ['no room here', { at: { image_bytes: GIB } }, 'room: the source (alpha) has 1024 MiB free'],
  [
    'no room there',
    { at: { image_bytes: GIB / 2 } },
    'room: the destination (beta) has 1024 MiB free for image and memory, 1088 MiB are needed',
  ],
  [
    'a missing file',
    { at: { files: [binary] } },
    'files: the destination lacks /usr/bin/server (executable); copy or install',
  ],
  [
    'a file of another size',
    { at: { files: [binary] }, there: [{ ...binary, size: 101 }] },
    'files: the destination has another size or build of /usr/bin/server (executable)',
  ],
  [
    'a file of another build',
    { at: { files: [binary] }, there: [{ ...binary, build_id: 'bb' }] },
    'files: the destination has another size or build',
  ],
  [
    'a file in place of a directory',
    { at: { files: [{ path: '/d', kind: 'directory' }] }, there: [{ path: '/d', kind: 'open', size: 0 }] },
    'files: the destination has another size or build of /d (directory)',
  ],
])('%s fails with what to do about it', (_what, given, expected) => {
  expect(failures(given)).toEqual([expect.stringContaining(expected)]);
});

test.each<[string, Partial<Case>]>([
  ['a newer kernel and more features', { own: { kernel: '7.0.1', cpu_flags: ['avx', 'avx512f', 'sse2'] } }],
  ['another patch level', { own: { kernel: '6.18.0-1-amd64' } }],
  [
    'CRIU 4.1 below 6.16',
    { source: { kernel: '6.12.1', criu: '4.1' }, own: { kernel: '6.15.9', criu: '4.1.1' } },
  ],
])('%s is welcome', (_what, given) => {
  expect(failures(given)).toEqual([]);
});

test('of a long list five are named', () => {
  const files = Array.from({ length: 8 }, (_, index): FileFact => ({ path: `/f${index}`, kind: 'mapped' }));
  const [message, ...more] = failures({ at: { files } });
  expect(more).toEqual([]);
  expect(message).toContain('/f4 (mapped file) and 3 more;');
  expect(message).not.toContain('/f5');
});

test('every failure is told, not only the first', () => {
  expect(
    failures({ own: { criu: null, kernel: '5.10', cpu_flags: [] }, at: { files: [binary] } }).length,
  ).toBe(4);
});

test.each([
  ['6.12.48', '4.1'],
  ['6.15.11', '4.1'],
  ['6.16', '4.2'],
  ['6.16-rc1', '4.2'],
  ['6.18.5', '4.2'],
  ['7.0', '4.2'],
])('kernel %s needs CRIU %s', (kernel, min) => {
  expect(criuMin(kernel)).toBe(min);
});

test.each([
  ['4.1', '4.1', 0],
  ['4.1.1', '4.1', 1],
  ['4.2', '4.10', -1],
  ['6.9', '6.18.5', -1],
  ['6.18.5-amd64', '6.18.5', 0],
  ['', '0', 0],
])('%j compared with %j', (left, right, sign) => {
  expect(Math.sign(compareVersions(left, right))).toBe(sign);
  expect(Math.sign(compareVersions(right, left))).toBe(sign === 0 ? 0 : -sign);
});
