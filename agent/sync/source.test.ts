/** What a source sends of a directory, pass by pass, as it changes on this machine's disk. */
import { mkdirSync, renameSync, rmSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { execa } from 'execa';
import { beforeEach, expect, onTestFinished, test } from 'vitest';
import { temporaryDirectory } from '../test-support.ts';
import { decodeSyncPiece } from '../wire/sync.ts';
import { syncEntrySchema } from './entry.ts';
import { SyncSource } from './source.ts';

const never = new AbortController().signal;
let root: string;
let tree: string;

beforeEach(() => {
  root = temporaryDirectory();
  tree = join(root, 'tree');
  mkdirSync(tree);
});

/** This process's own files are none of the test's business. */
async function sourceOf(): Promise<SyncSource> {
  const source = new SyncSource(() => process.pid, [tree]);
  const { things } = await source.list(never);
  source.begin(
    [],
    [...things.keys()].filter((path) => !path.startsWith(`${root}/`)),
  );
  return source;
}

/** What is said of each path: its bytes where there are any. */
async function pass(source: SyncSource, final = false): Promise<string[]> {
  const result = { files: 0, bytes: 0, unsteady: [] };
  const names = new Map<number, string>();
  const said: string[] = [];
  for await (const piece of source.pass(final, result, never)) {
    for (const record of decodeSyncPiece(piece)) {
      if (record.kind === 'entry') {
        const entry = syncEntrySchema.parse(record.entry);
        names.set(record.index, entry.path.slice(tree.length));
        if (entry.type !== 'directory') said.push(`${names.get(record.index)} ${entry.target ?? ''}`.trim());
      } else if (record.kind === 'bytes') said.push(`${record.offset}: ${Buffer.from(record.bytes)}`);
      else if (record.kind === 'gone') said.push(`gone ${record.path.slice(tree.length)}`);
    }
  }
  return said;
}

/** Long ago: what was written just now may be written to again without looking newer. */
function put(name: string, text: string, time = 1_000): void {
  writeFileSync(join(tree, name), text);
  utimesSync(join(tree, name), time, time);
}

test('all of it once, and then what has changed, come up or gone', async () => {
  put('a', 'one');
  put('b', 'two');
  mkdirSync(join(tree, 'd'));
  put('d/c', 'three');
  symlinkSync('a', join(tree, 'l'));
  const source = await sourceOf();
  expect(await pass(source)).toEqual(['/a', '0: one', '/b', '0: two', '/d/c', '0: three', '/l a']);
  expect(await pass(source)).toEqual([]);
  put('a', 'one more', 1_001);
  rmSync(join(tree, 'b'));
  renameSync(join(tree, 'd'), join(tree, 'e'));
  rmSync(join(tree, 'l'));
  symlinkSync('e', join(tree, 'l'));
  const third = await pass(source);
  expect(third.slice(0, 5)).toEqual(['/a', '0: one more', '/e/c', '0: three', '/l e']);
  expect(third.slice(5).sort()).toEqual(['gone /b', 'gone /d', 'gone /d/c']);
  rmSync(join(tree, 'a'));
  mkdirSync(join(tree, 'a'));
  expect(await pass(source, true)).toEqual(['gone /a']);
  expect(await pass(source, true)).toEqual([]);
});

test('what was the same is not sent, unless it changes', async () => {
  put('a', 'one');
  const source = new SyncSource(() => process.pid, [tree]);
  const { things } = await source.list(never);
  expect(await source.hashes([`${tree}/a`, `${tree}/nothing`], never)).toEqual([expect.any(String), null]);
  source.begin(
    [`${tree}/a`],
    [...things.keys()].filter((path) => !path.startsWith(`${root}/`)),
  );
  expect(await pass(source)).toEqual([]);
  put('a', 'two', 1_001);
  expect(await pass(source)).toEqual(['/a', '0: two']);
});

test('a socket is left out, a FIFO stands in the way, and so does a directory that is none', async () => {
  const server = createServer().listen(join(tree, 'socket'));
  onTestFinished(() => void server.close());
  await execa('mkfifo', [join(tree, 'fifo')]);
  put('file', 'x');
  const listing = async (path: string) => await new SyncSource(() => process.pid, [path]).list(never);
  const { notes, problems } = await listing(tree);
  expect(problems).toEqual([expect.stringContaining(`${tree}/fifo is a FIFO`)]);
  expect(notes.join()).toContain('1 unix sockets are left out');
  expect((await listing(join(tree, 'file'))).problems).toEqual([expect.stringContaining('no directory')]);
  expect((await listing(join(tree, 'nothing'))).problems).toEqual([expect.stringContaining('there is no')]);
});
