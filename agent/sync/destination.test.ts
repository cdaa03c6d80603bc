/** What a destination does to files, and takes back, on this machine's disk. */
import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { beforeEach, expect, test } from 'vitest';
import type { SyncFact } from '../control/sync-protocol.ts';
import { temporaryDirectory } from '../test-support.ts';
import { encodeSyncRecord, type SyncRecord } from '../wire/sync.ts';
import { SyncDestination } from './destination.ts';
import type { SyncEntry } from './entry.ts';
import { boundTo, Journal } from './journal.ts';

const never = new AbortController().signal;
const ID = 'ab'.repeat(16);
const [uid, gid] = [process.getuid?.() ?? 0, process.getgid?.() ?? 0];
let root: string;
let journals: string;

beforeEach(() => {
  root = temporaryDirectory();
  journals = join(temporaryDirectory(), 'syncs');
});

function entryOf(name: string, type: SyncEntry['type'] = 'file', more: Partial<SyncEntry> = {}): SyncEntry {
  return { path: `${root}/${name}`, type, mode: 0o640, uid, gid, mtime: 1_600_000_000_123.456, ...more };
}

let drawn = 0;
function file(name: string, text: string, index = drawn++): SyncRecord[] {
  const bytes = Buffer.from(text);
  return [
    { kind: 'entry', index, entry: entryOf(name) },
    { kind: 'bytes', index, offset: 0, bytes },
    { kind: 'done', index, size: bytes.length },
  ];
}

async function* piecesOf(records: readonly SyncRecord[]): AsyncGenerator<Buffer> {
  yield Buffer.concat(records.map(encodeSyncRecord));
}

type Plan = { replace?: string[]; remove?: string[]; same?: string[] };

function begun({ replace = [], remove = [], same = [] }: Plan = {}): SyncDestination {
  const destination = new SyncDestination(ID, journals);
  const paths = (names: string[]) => names.map((name) => `${root}/${name}`);
  destination.begin({ trees: [root], replace: paths(replace), remove: paths(remove), same: paths(same) });
  return destination;
}

const write = (destination: SyncDestination, records: readonly SyncRecord[], final = false) =>
  destination.write(piecesOf(records), final, never);
const text = (name: string) => readFileSync(`${root}/${name}`, 'utf8');
const all = () => readdirSync(root, { recursive: true }).map(String).sort();

test('files, directories and links come as they are to be, and go again', async () => {
  const destination = begun();
  await write(destination, [
    { kind: 'entry', index: 100, entry: entryOf('new', 'directory', { mode: 0o750 }) },
    ...file('new/file', 'hello'),
    { kind: 'entry', index: 101, entry: entryOf('new/link', 'symlink', { target: '../elsewhere' }) },
  ]);
  expect([text('new/file'), readlinkSync(`${root}/new/link`)]).toEqual(['hello', '../elsewhere']);
  const { mode, mtimeMs } = lstatSync(`${root}/new/file`);
  expect([mode & 0o7777, Math.floor(mtimeMs * 1_000) / 1_000]).toEqual([0o640, 1_600_000_000_123.456]);
  expect(lstatSync(`${root}/new`).mode & 0o7777).toBe(0o750);
  expect(await destination.undo()).toEqual([]);
  expect(all()).toEqual([]);
  expect(readdirSync(journals)).toEqual([]);
});

test('a later pass writes into what is its own, and shortens it', async () => {
  const destination = begun();
  await write(destination, file('log', 'one two three', 7));
  const more: SyncRecord[] = [
    { kind: 'entry', index: 7, entry: entryOf('log') },
    { kind: 'bytes', index: 7, offset: 4, bytes: Buffer.from('TWO') },
    { kind: 'done', index: 7, size: 7 },
  ];
  await write(destination, more, true);
  expect(text('log')).toBe('one TWO');
  await write(destination, [{ kind: 'gone', index: 7, path: `${root}/log` }], true);
  expect(all()).toEqual([]);
});

test('a link that leads elsewhere now is made anew; what was a file may become a directory', async () => {
  const destination = begun();
  const link = (target: string): SyncRecord => ({
    kind: 'entry',
    index: 3,
    entry: entryOf('l', 'symlink', { target }),
  });
  await write(destination, [link('one'), ...file('x', 'file', 4)]);
  const directory: SyncRecord = { kind: 'entry', index: 5, entry: entryOf('x', 'directory') };
  await write(destination, [link('two'), { kind: 'gone', index: 4, path: `${root}/x` }, directory]);
  expect([readlinkSync(`${root}/l`), lstatSync(`${root}/x`).isDirectory()]).toEqual(['two', true]);
  await destination.undo();
  expect(all()).toEqual([]);
});

test('what is there and was not planned for stops it, and is untouched', async () => {
  writeFileSync(`${root}/there`, 'mine');
  mkdirSync(`${root}/directory`);
  for (const records of [
    file('there', 'x'),
    file('directory', 'x'),
    [{ kind: 'entry', index: 5, entry: entryOf('there', 'directory') } as const],
  ]) {
    const destination = begun();
    await expect(write(destination, records)).rejects.toMatchObject({ code: 'SYNC_CHANGED' });
    await destination.undo();
  }
  expect([text('there'), all()]).toEqual(['mine', ['directory', 'there']]);
});

test('what is replaced or removed is kept until it is decided, and is back as it was when it is undone', async () => {
  writeFileSync(`${root}/there`, 'mine');
  chmodSync(`${root}/there`, 0o604);
  writeFileSync(`${root}/stale`, 'old');
  const inode = lstatSync(`${root}/there`).ino;
  const plan = { replace: ['there'], remove: ['stale'] };
  const destination = begun(plan);
  await write(destination, file('there', 'theirs'));
  expect([text('there'), existsSync(`${root}/stale`)]).toEqual(['theirs', false]);
  await destination.undo();
  expect([text('there'), text('stale'), all()]).toEqual(['mine', 'old', ['stale', 'there']]);
  expect([lstatSync(`${root}/there`).ino, lstatSync(`${root}/there`).mode & 0o777]).toEqual([inode, 0o604]);
  const again = begun(plan);
  await write(again, file('there', 'theirs'));
  expect(await again.keep()).toEqual([]);
  expect([text('there'), all()]).toEqual(['theirs', ['there']]);
});

function factOf(name: string, size: number): SyncFact {
  return { ...entryOf(name), why: 'tree', size, allocated: size };
}

test('what is the same is written to in a copy; where it has changed since it was compared, not at all', async () => {
  writeFileSync(`${root}/same`, 'one two');
  const compared = async () => {
    const destination = new SyncDestination(ID, journals);
    const { found } = await destination.compare([factOf('same', 7)], [], never);
    expect(found[0]?.hash).toMatch(/^[0-9a-f]{64}$/);
    destination.begin({ trees: [], replace: [], remove: [], same: [`${root}/same`] });
    return destination;
  };
  const patch: SyncRecord[] = [
    { kind: 'entry', index: 0, entry: entryOf('same') },
    { kind: 'bytes', index: 0, offset: 4, bytes: Buffer.from('TWO') },
    { kind: 'done', index: 0, size: 7 },
  ];
  const first = await compared();
  await write(first, patch);
  expect(text('same')).toBe('one TWO');
  await first.undo();
  expect([text('same'), all()]).toEqual(['one two', ['same']]);
  const gone = await compared();
  await write(gone, [{ kind: 'gone', index: 0, path: `${root}/same` }]);
  expect(all()).toEqual(['.osmosis-abababab-0.old']);
  await gone.undo();
  const second = await compared();
  writeFileSync(`${root}/same`, 'another');
  await expect(write(second, patch)).rejects.toMatchObject({ code: 'SYNC_CHANGED' });
  await second.undo();
  expect(text('same')).toBe('another');
});

test('nothing is removed but in a directory that was named, and none of the host itself can be', async () => {
  writeFileSync(`${root}/mine`, 'mine');
  const outside = { trees: [`${root}/other`], replace: [], remove: [`${root}/mine`], same: [] };
  const destination = new SyncDestination(ID, journals);
  expect(() => destination.begin(outside)).toThrow(expect.objectContaining({ code: 'SYNC_CHANGED' }));
  await destination.undo();
  const none = { replace: [], remove: [], same: [] };
  for (const tree of ['/', '/usr/lib', '/var/lib/osmosis/trust'])
    expect(() => new SyncDestination(ID, journals).begin({ trees: [tree], ...none })).toThrow(tree);
  expect(text('mine')).toBe('mine');
});

test('a link in the place of a directory leads nowhere', async () => {
  const elsewhere = temporaryDirectory();
  symlinkSync(elsewhere, `${root}/link`);
  const destination = begun();
  await expect(write(destination, file('link/file', 'x'))).rejects.toMatchObject({ code: 'SYNC_FAILED' });
  await destination.undo();
  expect([readdirSync(elsewhere), all()]).toEqual([[], ['link']]);
});

test('what others have put there meanwhile is left to them', async () => {
  const destination = begun();
  await write(destination, [
    { kind: 'entry', index: 100, entry: entryOf('new', 'directory') },
    ...file('new/file', 'x'),
  ]);
  writeFileSync(`${root}/new/theirs`, 'theirs');
  expect(await destination.undo()).toEqual([expect.stringContaining('ENOTEMPTY')]);
  expect(all()).toEqual(['new', 'new/theirs']);
});

test('a successor finds what was done, and whose it is', async () => {
  writeFileSync(`${root}/there`, 'mine');
  const destination = begun({ replace: ['there'] });
  await write(destination, file('there', 'theirs'));
  destination.bind('cd'.repeat(16));
  const [left] = Journal.left(journals);
  expect(left?.id).toBe(ID);
  expect(boundTo(left?.journal.steps() ?? [])).toBe('cd'.repeat(16));
  destination.release();
  expect(boundTo(left?.journal.steps() ?? [])).toBeUndefined();
  const successor = SyncDestination.adopt(ID, journals, (left as { journal: Journal }).journal, undefined);
  await successor.undo();
  expect([text('there'), all()]).toEqual(['mine', ['there']]);
});
