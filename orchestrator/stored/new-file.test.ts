import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { OsmosisError } from '../../agent/error.ts';
import { temporaryDirectory } from '../../agent/test-support.ts';
import { withNewSecret } from './new-file.ts';

const newPath = () => join(temporaryDirectory(), 'image');
const failing = (error: OsmosisError) => (): Promise<never> => Promise.reject(error);

test('a suspension that fails leaves no key, and can be tried again', async () => {
  const file = newPath();
  const fault = new OsmosisError('DUMP_FAILED', 'it broke', { owner: 'source' });
  await expect(withNewSecret(file, {}, failing(fault))).rejects.toBe(fault);
  expect(existsSync(`${file}.key`)).toBe(false);
  await withNewSecret(file, {}, async () => undefined);
  expect(existsSync(`${file}.key`)).toBe(true);
});

test('the key of a file that has the process stays', async () => {
  const file = newPath();
  const fault = new OsmosisError('INTERNAL', 'it broke', { owner: 'file' });
  await expect(withNewSecret(file, {}, failing(fault))).rejects.toBe(fault);
  expect(existsSync(`${file}.key`)).toBe(true);
});

test('no key is made for a file that is there already', async () => {
  const file = newPath();
  writeFileSync(file, '');
  await expect(withNewSecret(file, {}, async () => undefined)).rejects.toMatchObject({ code: 'IMAGE_FILE' });
  expect(existsSync(`${file}.key`)).toBe(false);
});
