import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { temporaryDirectory } from '../test-support.ts';
import { beneath, beneathIfThere } from './beneath.ts';

const text = (place: string) => readFileSync(place, 'utf8');

test('a file is reached by its real directories, and by no link', () => {
  const root = temporaryDirectory();
  mkdirSync(join(root, 'real/inner'), { recursive: true });
  writeFileSync(join(root, 'real/inner/file'), 'x');
  writeFileSync(join(root, 'secret'), 's');
  symlinkSync('real', join(root, 'link'));
  symlinkSync('/', join(root, 'real/top'));
  expect(beneath(root, '/real/inner/file', text)).toBe('x');
  for (const path of ['/link/inner/file', `/real/top${root}/secret`])
    expect(() => beneath(root, path, text)).toThrow(/ENOTDIR|ELOOP/);
});

test('what is not there is told apart from what can not be reached', () => {
  const root = temporaryDirectory();
  writeFileSync(join(root, 'file'), 'x');
  expect(beneathIfThere(root, '/nothing/here', text)).toBeUndefined();
  expect(beneathIfThere(root, '/file', text)).toBe('x');
  expect(() => beneathIfThere(root, '/file/inside', text)).toThrow('ENOTDIR');
});
