import { expect, test } from 'vitest';
import { clangArgv, OBJECT_FILE, SOURCE_FILE } from './object.ts';

test('the object is beside its source', () => {
  expect(OBJECT_FILE).toBe(SOURCE_FILE.replace(/\.c$/, '.o'));
});

test('argv', () => {
  const argv = clangArgv('a.c', 'a.o');
  expect(argv).toEqual(expect.arrayContaining(['-O2', '-g', '-target', 'bpf']));
  expect(argv.slice(-4)).toEqual(['-c', 'a.c', '-o', 'a.o']);
});
