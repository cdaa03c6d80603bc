/** A file and its copy: what is sent of the one makes the other the same, whatever happened to it. */
import { createHash } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { temporaryDirectory } from '../test-support.ts';
import { type Blocks, changedBlocks, hashFile } from './blocks.ts';

const BLOCK = 65_536;
const never = new AbortController().signal;

/** Reads `content`, of which the destination has `known`, and does to `copy` what a destination does. */
type Passed = { copy: Buffer; blocks: Blocks; sent: number };

async function pass(path: string, content: Buffer, copy: Buffer, known: Blocks | undefined): Promise<Passed> {
  writeFileSync(path, content);
  const file = await open(path);
  try {
    const changed = changedBlocks(file, content.length, known, never);
    let next: Buffer = copy;
    let sent = 0;
    for (let one = await changed.next(); ; one = await changed.next()) {
      if (one.done === true) return { copy: sized(next, one.value.size), blocks: one.value, sent };
      const { offset, bytes } = one.value;
      next = sized(next, Math.max(next.length, offset + bytes.length));
      bytes.copy(next, offset);
      sent += bytes.length;
    }
  } finally {
    await file.close();
  }
}

function sized(buffer: Buffer, size: number): Buffer {
  const result = Buffer.alloc(size);
  buffer.copy(result);
  return result;
}

test('pass after pass the copy is as the file was when it was read', async () => {
  const path = join(temporaryDirectory(), 'file');
  const edit = fc.record({
    at: fc.nat(4 * BLOCK),
    fill: fc.constantFrom(0, 0, 1, 200),
    length: fc.nat(2 * BLOCK),
    size: fc.option(fc.nat(5 * BLOCK)),
  });
  await fc.assert(
    fc.asyncProperty(fc.array(edit, { minLength: 1, maxLength: 6 }), async (edits) => {
      let content: Buffer = Buffer.alloc(0);
      let copy: Buffer = Buffer.alloc(0);
      let known: Blocks | undefined;
      for (const { at, fill, length, size } of edits) {
        content = sized(content, Math.max(content.length, at + length)).fill(fill, at, at + length);
        if (size !== null) content = sized(content, size);
        ({ copy, blocks: known } = await pass(path, content, copy, known));
        expect(copy.equals(content)).toBe(true);
      }
    }),
    { numRuns: 60 },
  );
});

test('of a log that has grown only its last block and what is new is sent; holes are not', async () => {
  const path = join(temporaryDirectory(), 'file');
  const old = Buffer.alloc(10 * BLOCK + 100, 'x');
  const first = await pass(path, old, Buffer.alloc(0), undefined);
  const grown = Buffer.concat([old, Buffer.from('more')]);
  const second = await pass(path, grown, first.copy, first.blocks);
  expect(second.sent).toBe(104);
  const sparse = await pass(path, Buffer.alloc(3 * BLOCK), Buffer.alloc(0), undefined);
  expect([sparse.sent, sparse.copy.length]).toEqual([0, 3 * BLOCK]);
});

test('a hash is that of the whole file', async () => {
  const path = join(temporaryDirectory(), 'file');
  const content = Buffer.alloc(3 * BLOCK + 7, 'y');
  writeFileSync(path, content);
  await using file = await open(path);
  const { hash, blocks } = await hashFile(file, content.length, never);
  expect(hash).toBe(createHash('sha256').update(content).digest('hex'));
  expect((await pass(path, content, content, blocks)).sent).toBe(0);
});
