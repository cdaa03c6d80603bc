import { expect, test } from 'vitest';
import { mappings, needsOf } from './needs.ts';

test('mapped files, and which of them are written to by way of memory', () => {
  const maps = `55a0-55a1 r--p 00000000 08:01 12 /usr/bin/app
55a1-55a2 rw-p 00001000 08:01 12 /usr/bin/app
7f00-7f01 rw-s 00000000 08:01 13 /srv/a file with spaces
7f01-7f02 rw-s 00000000 00:01 14 /dev/shm/pool
7f02-7f03 r--s 00000000 08:01 15 /srv/read
7f03-7f04 rw-s 00000000 00:01 16 /memfd:x (deleted)
7f04-7f05 rw-p 00000000 00:00 0 [heap]
7f05-7f06 rw-p 00000000 00:00 0
`;
  expect(mappings(maps)).toEqual([
    { path: '/usr/bin/app', sharedMemory: false },
    { path: '/srv/a file with spaces', sharedMemory: true },
    { path: '/dev/shm/pool', sharedMemory: true },
    { path: '/srv/read', sharedMemory: false },
  ]);
});

test('this process needs its program, its libraries and the directory that it stands in', () => {
  const needs = needsOf([process.pid]);
  expect(needs.get(process.execPath)?.why).toBe('executable');
  expect([...needs].some(([path, { why }]) => why === 'mapped' && /libc\b|ld-/.test(path))).toBe(true);
  expect(needs.get(process.cwd())?.why).toBe('directory');
  expect([...needs.keys()].some((path) => path.startsWith('/proc') || path.startsWith('/dev/null'))).toBe(
    false,
  );
});
