/** Reader and writer against each other: two directories, one stream. */
import { appendFileSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { OsmosisError } from '../error.ts';
import { temporaryDirectory } from '../test-support.ts';
import { encodeImageRecord, IMAGE_PIECE_BYTES, ImageTally } from '../wire/image.ts';
import { type ImagePiece, readImage } from './reader.ts';
import { ImageWriter } from './writer.ts';

const record = (name: string, offset: number, text = 'abc') =>
  encodeImageRecord({ name, offset, bytes: Buffer.from(text) });

async function piecesOf(
  directory: string,
  isComplete = () => true,
  signal = new AbortController().signal,
): Promise<ImagePiece[]> {
  const pieces: ImagePiece[] = [];
  for await (const piece of readImage(directory, isComplete, signal)) pieces.push(piece);
  return pieces;
}

function tallyOf(pieces: readonly ImagePiece[]) {
  const tally = new ImageTally();
  for (const { piece, names } of pieces) tally.add(piece, names);
  return tally.finish();
}

/** Writes `pieces` and compares with the tally of `sent`. */
function write(pieces: readonly Buffer[], sent: readonly ImagePiece[]): string {
  const directory = temporaryDirectory();
  const writer = new ImageWriter(directory);
  try {
    for (const piece of pieces) writer.write(piece);
    writer.finish(tallyOf(sent));
  } finally {
    writer.close();
  }
  return directory;
}

function expectSameFiles(left: string, right: string): void {
  expect(readdirSync(right).sort()).toEqual(readdirSync(left).sort());
  for (const name of readdirSync(left))
    expect(readFileSync(join(right, name)).equals(readFileSync(join(left, name)))).toBe(true);
}

test('small, empty and large files arrive as they are; logs and directories stay', async () => {
  const from = temporaryDirectory();
  writeFileSync(join(from, 'core-1.img'), 'core');
  writeFileSync(join(from, 'empty.img'), '');
  writeFileSync(join(from, 'pages-1.img'), Buffer.alloc(2 * IMAGE_PIECE_BYTES + 7, 0xa5));
  const sent = await piecesOf(from);
  const to = write(
    sent.map(({ piece }) => piece),
    sent,
  );
  expectSameFiles(from, to);
  for (const name of ['dump.log', 'stats-dump']) writeFileSync(join(from, name), 'x');
  mkdirSync(join(from, 'directory'));
  expect((await piecesOf(from)).flatMap(({ names }) => names)).toEqual(sent.flatMap(({ names }) => names));
});

test('thousands of small files share few pieces, and are written with few open files', async () => {
  const from = temporaryDirectory();
  for (let index = 0; index < 2_000; index++) writeFileSync(join(from, `sk-${index}.img`), `socket ${index}`);
  const sent = await piecesOf(from);
  expect(sent.length).toBeLessThan(4);
  expectSameFiles(
    from,
    write(
      sent.map(({ piece }) => piece),
      sent,
    ),
  );
});

test('growing page files flow before the image is complete, the rest after it', async () => {
  const from = temporaryDirectory();
  let complete = false;
  const pages = ['pages-1.img', 'pages-2.img'].map((name) => join(from, name));
  for (const path of pages) writeFileSync(path, '');
  writeFileSync(join(from, 'core-1.img'), 'half');
  const grow = async () => {
    for (let round = 0; round < 20; round++) {
      for (const path of pages) appendFileSync(path, Buffer.alloc(70_000, round));
      await sleep(2);
    }
    writeFileSync(join(from, 'core-1.img'), 'whole');
    complete = true;
  };
  const growing = grow();
  const sent: ImagePiece[] = [];
  let early = 0;
  for await (const piece of readImage(from, () => complete, new AbortController().signal)) {
    if (!complete) {
      expect(piece.names.every((name) => name.startsWith('pages-'))).toBe(true);
      early++;
    }
    sent.push(piece);
  }
  await growing;
  expect(early).toBeGreaterThan(2);
  expectSameFiles(
    from,
    write(
      sent.map(({ piece }) => piece),
      sent,
    ),
  );
});

test('the reader ends with the abort reason', async () => {
  const abort = new AbortController();
  const reading = piecesOf(temporaryDirectory(), () => false, abort.signal);
  setTimeout(() => abort.abort(new OsmosisError('ABORTED', 'undone')), 10);
  await expect(reading).rejects.toSatisfy((error: Error) => (error.cause ?? error) instanceof OsmosisError);
});

test.each([
  ['a piece is missing', (all: Buffer[]) => all.slice(0, -1)],
  ['a byte is another', (all: Buffer[]) => all.map((piece) => flipped(piece))],
  ['a piece came twice', (all: Buffer[]) => [...all, ...all]],
  ['pieces changed places', (all: Buffer[]) => all.toReversed()],
  ['a piece was cut', (all: Buffer[]) => all.map((piece) => piece.subarray(0, -1))],
])('IMAGE_CORRUPT where %s', async (_what, alter) => {
  const from = temporaryDirectory();
  writeFileSync(join(from, 'pages-1.img'), Buffer.alloc(2 * IMAGE_PIECE_BYTES, 1));
  const sent = await piecesOf(from);
  expect(sent.length).toBe(2);
  expect(() => write(alter(sent.map(({ piece }) => piece)), sent)).toThrow(
    expect.objectContaining({ code: 'IMAGE_CORRUPT', phase: 'freeze' }),
  );
});

function flipped(piece: Buffer): Buffer {
  const copy = Buffer.from(piece);
  copy.writeUInt8(copy.readUInt8(copy.length - 1) ^ 1, copy.length - 1);
  return copy;
}

test.each([
  ['a gap', [record('a.img', 0), record('a.img', 4)]],
  ['an overlap', [record('a.img', 0), record('a.img', 2)]],
  ['a file that does not begin at its beginning', [record('a.img', 1)]],
  ['a path', [Buffer.concat([Buffer.of(4), Buffer.from('../x'), Buffer.alloc(10)])]],
])('%s is refused at once', (_what, pieces) => {
  const writer = new ImageWriter(temporaryDirectory());
  expect(() => {
    for (const piece of pieces) writer.write(piece);
  }).toThrow(expect.objectContaining({ code: 'IMAGE_CORRUPT' }));
  writer.close();
});

test('a full file system is NO_ROOM', () => {
  const writer = new ImageWriter('/dev');
  expect(() => writer.write(record('full', 0))).toThrow(expect.objectContaining({ code: 'NO_ROOM' }));
  writer.close();
});
