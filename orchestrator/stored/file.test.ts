/** Writer and reader of image files against each other, on this machine's disk. */
import { chmodSync, existsSync, readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { OsmosisError } from '../../agent/error.ts';
import { snapshotWith, temporaryDirectory } from '../../agent/test-support.ts';
import type { ClearMetadata, SealedMetadata } from './metadata.ts';
import { ImageFileReader } from './reader.ts';
import { newSecret, secretFor } from './secret.ts';
import { ImageFileWriter, setState } from './writer.ts';

const CLEAR: ClearMetadata = {
  cell: 'server',
  suspended_at: 1_795_412_465_031,
  version: '0',
  host: { hostname: 'alpha', kernel: '6.18', arch: 'x64', criu: '4.2' },
  processes: 1,
  flows: 1,
  peers: 1,
};
const SEALED: SealedMetadata = {
  migration: 'ab'.repeat(16),
  source: { addresses: ['10.77.1.2'], key: new Uint8Array(32).fill(7) },
  snapshot: snapshotWith(),
  sessions: [
    {
      peer: '10.77.4.2',
      epoch: 1,
      transaction: new Uint8Array(8),
      cell: new Uint8Array(16),
      tag: new Uint8Array(8),
      toPeer: new Uint8Array(32).fill(8),
      toCell: new Uint8Array(32).fill(9),
    },
  ],
  published: [],
  image: { bytes: 4, files: 1, sha256: new Uint8Array(32) },
};

async function written(pieces = ['some', 'pieces']): Promise<string> {
  const file = join(temporaryDirectory(), 'image');
  const writer = await ImageFileWriter.create(file, CLEAR, await newSecret(file, {}));
  expect(existsSync(file)).toBe(false);
  await Promise.all(pieces.map((piece) => writer.piece(Buffer.from(piece))));
  await writer.finish(Buffer.from('end'), SEALED);
  return file;
}

/** @throws where it is not whole, too */
async function readIntact(file: string): Promise<void> {
  const { intact } = await readAll(file);
  if (!intact) throw new OsmosisError('IMAGE_CORRUPT', 'its checksum does not agree');
}

async function readAll(file: string) {
  const reader = await ImageFileReader.open(file);
  try {
    const image = await reader.unlock(await secretFor(file, reader.key, {}));
    const pieces: string[] = [];
    for await (const { plaintext } of image.pieces()) pieces.push(Buffer.from(plaintext).toString());
    return {
      pieces,
      metadata: image.metadata,
      clear: reader.clear,
      state: reader.state,
      intact: await reader.isIntact(),
    };
  } finally {
    await reader.close();
  }
}

describe('a file', () => {
  it('is read as it was written; what becomes of it changes nothing else', async () => {
    const file = await written();
    expect(await readAll(file)).toMatchObject({
      pieces: ['some', 'pieces', 'end'],
      metadata: SEALED,
      clear: CLEAR,
      state: { state: 'undecided', attempts: 0 },
      intact: true,
    });
    expect(existsSync(`${file}.partial`)).toBe(false);
    for (const path of [file, `${file}.key`]) expect(statSync(path).mode & 0o777).toBe(0o600);
    await setState(file, { state: 'resumed', attempts: 2, host: 'beta' });
    expect(await readAll(file)).toMatchObject({
      state: { state: 'resumed', attempts: 2, host: 'beta' },
      intact: true,
    });
  });

  it('tells nothing of flows, keys and command lines without its key', async () => {
    const bytes = readFileSync(await written());
    for (const secret of ['10.77.4.2', '\x08'.repeat(32), '\x07'.repeat(32), 'pieces'])
      expect(bytes.includes(Buffer.from(secret, 'latin1'))).toBe(false);
  });

  it('is not written over another one, nor over what is still being written', async () => {
    const file = await written();
    writeFileSync(`${file}.partial`, '');
    const secret = {
      source: { kind: 'key' } as const,
      material: () => new Uint8Array(32),
      drop: async () => {},
    };
    await expect(ImageFileWriter.create(file, CLEAR, secret)).rejects.toMatchObject({ code: 'IMAGE_FILE' });
    await expect(newSecret(file, {})).rejects.toMatchObject({ code: 'IMAGE_FILE' });
  });

  it('leaves nothing where it was given up', async () => {
    const file = join(temporaryDirectory(), 'image');
    const secret = await newSecret(file, {});
    const writer = await ImageFileWriter.create(file, CLEAR, secret);
    await writer.piece(Buffer.from('some'));
    await writer.discard();
    await secret.drop();
    expect([file, `${file}.partial`, `${file}.key`].filter(existsSync)).toEqual([]);
  });
});

describe('is refused', () => {
  it('wherever a bit has changed, or it was cut', async () => {
    const file = await written();
    const bytes = readFileSync(file);
    for (let at = 0; at < bytes.length; at += 3) {
      const altered = Buffer.from(bytes);
      altered.writeUInt8(altered.readUInt8(at) ^ 4, at);
      writeFileSync(file, altered);
      await expect(readIntact(file)).rejects.toMatchObject({
        code: expect.stringMatching(/^IMAGE_(CORRUPT|FORMAT)$/),
      });
    }
    for (const length of [0, 10, 64, 200, bytes.length - 200, bytes.length - 1]) {
      writeFileSync(file, bytes);
      truncateSync(file, length);
      await expect(readIntact(file)).rejects.toMatchObject({
        code: expect.stringMatching(/^IMAGE_(CORRUPT|FORMAT)$/),
      });
    }
  });

  it('with another key, one of another kind, one that others can read, and none', async () => {
    const file = await written();
    const refused = expect.objectContaining({ code: 'IMAGE_KEY' });
    const other = join(temporaryDirectory(), 'other');
    writeFileSync(other, `${'00'.repeat(32)}\n`, { mode: 0o600 });
    const reader = await ImageFileReader.open(file);
    const key = await secretFor(file, reader.key, { keyFile: other });
    await expect(reader.unlock(key)).rejects.toEqual(refused);
    await reader.close();
    await expect(secretFor(file, { kind: 'key' }, { passphraseFile: other })).rejects.toEqual(refused);
    await expect(secretFor(file, { kind: 'key' }, { keyFile: `${other}-none` })).rejects.toEqual(refused);
    chmodSync(other, 0o640);
    await expect(secretFor(file, { kind: 'key' }, { keyFile: other })).rejects.toEqual(refused);
  });
});
