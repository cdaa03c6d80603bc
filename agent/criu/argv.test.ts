import { accessSync, constants } from 'node:fs';
import { expect, test } from 'vitest';
import { dumpArgv, HOOK_PATH, inOwnSession, insideArgv, restoreArgv } from './argv.ts';

const COMMON = [
  ...[
    '--tcp-established',
    '--network-lock',
    'skip',
    '--shell-job',
    '--file-locks',
    '--manage-cgroups=ignore',
  ],
  ...['--action-script', HOOK_PATH, '-v2'],
];

test('the hook is there for CRIU to run', () => {
  expect(() => accessSync(HOOK_PATH, constants.X_OK)).not.toThrow();
});

test('dump', () => {
  expect(dumpArgv(12, '/run/images/x')).toEqual([
    ...['criu', 'dump', '--tree', '12', '--images-dir', '/run/images/x', '--log-file', 'dump.log'],
    ...['--ghost-limit', '268435456'],
    ...COMMON,
  ]);
});

test('restore, with a descriptor for each thing that stayed behind', () => {
  const base = [
    ...[
      'criu',
      'restore',
      '--restore-detached',
      '--images-dir',
      '/run/images/x',
      '--log-file',
      'restore.log',
    ],
    ...['--pidfile', 'restored.pid'],
    ...COMMON,
  ];
  expect(restoreArgv('/run/images/x', [], 3)).toEqual(base);
  expect(restoreArgv('/run/images/x', ['pipe:[7]', 'socket:[8]'], 3)).toEqual([
    ...base,
    ...['--inherit-fd', 'fd[3]:pipe:[7]', '--inherit-fd', 'fd[4]:socket:[8]'],
  ]);
});

test('inside a cell, with or without a network of its own, or at home', () => {
  const enter = ['nsenter', '--target', '9', '--pid', '--mount'];
  expect(insideArgv({ init: 9, net: true }, ['ls', '-l'])).toEqual([...enter, '--net', '--', 'ls', '-l']);
  expect(insideArgv({ init: 9, net: false }, ['ls'])).toEqual([...enter, '--', 'ls']);
  expect(insideArgv('host', ['ls'])).toEqual(['ls']);
  expect(inOwnSession(['ls'])).toEqual(['setsid', 'ls']);
});
