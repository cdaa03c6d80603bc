import fc from 'fast-check';
import { describe, expect, it, test } from 'vitest';
import { syncPathSchema } from './entry.ts';
import { isClosedPath, isSystemPath, isWithin, outermost, syncPathProblem } from './paths.ts';

test.each([
  ['/srv/a', '/srv/a', true],
  ['/srv/a/b', '/srv/a', true],
  ['/srv/ab', '/srv/a', false],
  ['/srv', '/srv/a', false],
  ['/srv', '/', true],
])('%s within %s: %s', (path, directory, expected) => {
  expect(isWithin(path, directory)).toBe(expected);
});

test.each([
  ...[
    ['/usr/bin/ls', true],
    ['/lib/x86_64-linux-gnu/libc.so.6', true],
    ['/bin', true],
    ['/boot/vmlinuz', true],
  ],
  ...[
    ['/etc/passwd', true],
    ['/etc/app/config', false],
    ['/usr/local/bin/app', false],
    ['/opt/app/lib/libc.so.6', false],
  ],
  ...[
    ['/usrlocal', false],
    ['/srv/usr/bin/ls', false],
    ['/libexec', false],
  ],
] as const)('%s belongs to the system: %s', (path, expected) => {
  expect(isSystemPath(path)).toBe(expected);
});

test.each([
  ...[
    ['/proc/1/maps', true],
    ['/sys', true],
    ['/dev/null', true],
    ['/dev/shm/pool', false],
    ['/devices', false],
  ],
  ...[
    ['/run/osmosis/agent.sock', true],
    ['/var/lib/osmosis/trust', true],
    ['/run/app.pid', false],
  ],
] as const)('%s is never touched: %s', (path, expected) => {
  expect(isClosedPath(path)).toBe(expected);
});

describe('directories that can be copied as a whole', () => {
  it.each([
    '/srv/data',
    '/var/lib/mysql',
    '/opt/app',
    '/etc/app/conf.d',
    '/home/me/x',
    '/usr/local/app',
    '/dev/shm/x',
  ])('%s', (path) => {
    expect(syncPathProblem(path)).toBeUndefined();
  });

  it.each([
    ...[
      '/',
      '/etc',
      '/var',
      '/var/lib',
      '/srv',
      '/home',
      '/run',
      '/tmp',
      '/usr',
      '/usr/share/app',
      '/lib',
      '/etc/ssh',
    ],
    ...[
      '/proc/1',
      '/dev',
      '/var/lib/osmosis',
      '/run/osmosis/images',
      'srv',
      '',
      '/srv/../etc',
      '/srv//x',
      '/srv/./x',
      '/srv/x\0',
    ],
  ])('not %s', (path) => {
    expect(syncPathProblem(path)).toBeTypeOf('string');
  });
});

test('of directories within one another the outer one stays, and a slash at the end says nothing', () => {
  expect(outermost(['/srv/a/', '/srv/a/b', '/srv/ab', '/srv/a'])).toEqual(['/srv/a', '/srv/ab']);
});

test('no path of parts that go elsewhere is taken', () => {
  const parts = fc.array(fc.oneof(fc.constantFrom('..', '.', ''), fc.string({ minLength: 1 })), {
    minLength: 1,
  });
  fc.assert(
    fc.property(parts, (all) => {
      const path = `/${all.join('/')}`;
      const isPlain =
        path
          .slice(1)
          .split('/')
          .every((part) => !['', '.', '..'].includes(part)) && !path.includes('\0');
      expect(syncPathSchema.safeParse(path).success).toBe(isPlain || path === '/');
    }),
  );
});
