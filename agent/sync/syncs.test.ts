/** Whose files they are when whoever drove a move, or an agent, is gone. */
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeEach, expect, test, vi } from 'vitest';
import { eventually, temporaryDirectory } from '../test-support.ts';
import { encodeSyncRecord, type SyncRecord } from '../wire/sync.ts';
import { Syncs } from './syncs.ts';

const never = new AbortController().signal;
const [ID, MIGRATION] = ['ab'.repeat(16), 'cd'.repeat(16)];
const log = { warn: vi.fn(), error: vi.fn() };
let root: string;
let directory: string;

beforeEach(() => {
  root = temporaryDirectory();
  directory = join(temporaryDirectory(), 'syncs');
  writeFileSync(`${root}/there`, 'mine');
});

async function* once(records: readonly SyncRecord[]): AsyncGenerator<Buffer> {
  yield Buffer.concat(records.map(encodeSyncRecord));
}

/** `there` has been replaced. */
async function copied(syncs: Syncs, gone: AbortSignal = never) {
  const destination = syncs.beginDestination(ID, gone);
  destination.begin({ trees: [], replace: [`${root}/there`], remove: [], same: [] });
  const [uid, gid] = [process.getuid?.() ?? 0, process.getgid?.() ?? 0];
  const entry = { path: `${root}/there`, type: 'file', mode: 0o600, uid, gid, mtime: 0 };
  const bytes = Buffer.from('theirs');
  const records: SyncRecord[] = [
    { kind: 'entry', index: 0, entry },
    { kind: 'bytes', index: 0, offset: 0, bytes },
    { kind: 'done', index: 0, size: bytes.length },
  ];
  await destination.write(once(records), false, never);
  return destination;
}

const there = () => readFileSync(`${root}/there`, 'utf8');
/** Nothing but the file, and nothing to remember. */
const isSettled = () =>
  readdirSync(root).length === 1 && (!existsSync(directory) || readdirSync(directory).length === 0);

test('whoever drives it goes away: undone', async () => {
  const gone = new AbortController();
  await copied(new Syncs(directory, log), gone.signal);
  expect(there()).toBe('theirs');
  gone.abort();
  await eventually(() => expect([there(), isSettled()]).toEqual(['mine', true]));
});

test.each([
  ['moves', 'theirs'],
  ['is undone', 'mine'],
])('a migration has them, and %s, when nobody drives it any more', async (outcome, expected) => {
  const syncs = new Syncs(directory, log);
  const gone = new AbortController();
  (await copied(syncs, gone.signal)).bind(MIGRATION);
  gone.abort();
  await expect(syncs.undo(ID)).rejects.toMatchObject({ code: 'ABORTED' });
  expect(there()).toBe('theirs');
  if (outcome === 'moves') await syncs.keep(ID);
  else await syncs.release(ID);
  expect([there(), isSettled()]).toEqual([expected, true]);
});

test('a migration is undone that somebody drives: another try finds them as they are', async () => {
  const syncs = new Syncs(directory, log);
  (await copied(syncs)).bind(MIGRATION);
  await syncs.release(ID);
  expect(there()).toBe('theirs');
  syncs.destination(ID).bind('ef'.repeat(16));
  await syncs.keep(ID);
  expect([there(), isSettled()]).toEqual(['theirs', true]);
});

test.each([
  ['nobody has them', false, [], 'mine'],
  ['a migration had them that nobody knows any more', true, [], 'mine'],
  ['a migration has them that is recovered, and moves', true, [MIGRATION], 'theirs'],
])('the agent comes back, and %s', async (_what, isBound, known, expected) => {
  const destination = await copied(new Syncs(directory, log));
  if (isBound) destination.bind(MIGRATION);
  const successor = new Syncs(directory, log);
  successor.load();
  await successor.recover(new Set(known));
  if (known.length > 0) await successor.keep(ID);
  expect([there(), isSettled()]).toEqual([expected, true]);
});

test('the host was restarted while a migration had them: they are left, and it is said where the old ones are', async () => {
  (await copied(new Syncs(directory, log))).bind(MIGRATION);
  const file = join(directory, ID);
  writeFileSync(file, readFileSync(file, 'utf8').replace(/"boot":"[^"]*"/, '"boot":"another"'));
  const successor = new Syncs(directory, log);
  successor.load();
  await successor.recover(new Set());
  await eventually(() => expect(readdirSync(directory)).toEqual([]));
  expect(there()).toBe('theirs');
  const aside = `${root}/.osmosis-abababab-0.old`;
  expect(readFileSync(aside, 'utf8')).toBe('mine');
  expect(log.warn).toHaveBeenCalledWith({ aside: [aside] }, expect.stringContaining('restarted'));
});
