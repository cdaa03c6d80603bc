import { closeSync, existsSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { temporaryDirectory } from '../test-support.ts';
import { heldArgv } from './argv.ts';
import { criuErrors, holdCriu, markerAppears } from './run.ts';

function errorsOf(log: string): string {
  const directory = temporaryDirectory();
  writeFileSync(join(directory, 'dump.log'), log);
  return criuErrors(directory, 'dump.log');
}

test('the errors of a log without times and pids, as many as a person reads', () => {
  const line = (text: string) => `(00.012345) ${text}\n`;
  const harmless = line(
    "Error (criu/files.c:1): Can't setup RLIMIT_NOFILE for self: Operation not permitted",
  );
  const first =
    'Error (criu/sk-inet.c:191): inet: Connected TCP socket, consider using --tcp-established option.';
  expect(errorsOf(harmless + line('Dumping') + line(first) + line(`    12: ${first}`))).toBe(
    `${first}; ${first}`,
  );
  expect(errorsOf(line('Error (x): y').repeat(9)).split('; ').length).toBe(4);
});

test('a log without errors, and no log', () => {
  expect(errorsOf('(00.1) all well\n')).toBe('CRIU named no error');
  expect(criuErrors(temporaryDirectory(), 'restore.log')).toContain('is it installed?');
});

const never = new Promise<never>(() => {});
const live = new AbortController().signal;

test('a marker that is there, that comes, and that never came', async () => {
  const directory = temporaryDirectory();
  const ended = sleep(40);
  expect(await markerAppears(directory, 'frozen', ended, live)).toBe(false);
  const waiting = markerAppears(directory, 'frozen', never, live);
  setTimeout(() => {
    writeFileSync(join(directory, 'other'), '');
    writeFileSync(join(directory, 'frozen'), '');
  }, 20);
  expect(await waiting).toBe(true);
  expect(await markerAppears(directory, 'frozen', never, live)).toBe(true);
});

test('the end with the marker counts as the marker', async () => {
  const directory = temporaryDirectory();
  const ended = sleep(10).then(() => writeFileSync(join(directory, 'frozen'), ''));
  expect(await markerAppears(directory, 'frozen', ended, live)).toBe(true);
});

test('waiting ends with the reason of the signal', async () => {
  const directory = temporaryDirectory();
  const abort = new AbortController();
  const waiting = markerAppears(directory, 'frozen', never, abort.signal);
  abort.abort(new Error('enough'));
  await expect(waiting).rejects.toThrow('enough');
  await expect(markerAppears(directory, 'frozen', never, abort.signal)).rejects.toThrow('enough');
});

test('the end of a program is told, whatever it is; environment and descriptors arrive', async () => {
  const path = join(temporaryDirectory(), 'out');
  const fd = openSync(path, 'w');
  const run = holdCriu(heldArgv(['sh', '-c', 'echo "$OSMOSIS_WORK" >&3; exit 3']), {
    env: { OSMOSIS_WORK: 'w' },
    descriptors: [fd],
  });
  closeSync(fd);
  await sleep(50);
  expect(readFileSync(path, 'utf8')).toBe('');
  expect(await run.begin()).toEqual({ status: 3, signal: undefined });
  expect(readFileSync(path, 'utf8')).toBe('w\n');
  expect(await holdCriu(['sh', '-c', 'kill -9 $$'], { env: {} }).begin()).toMatchObject({
    signal: 'SIGKILL',
  });
  expect(await holdCriu(['/nowhere/criu'], { env: {} }).begin()).toEqual({
    status: undefined,
    signal: undefined,
  });
});

test('what is held and not wanted ends without having begun', async () => {
  const path = join(temporaryDirectory(), 'out');
  const run = holdCriu(heldArgv(['touch', path]), { env: {} });
  run.end();
  expect(await run.begin()).toMatchObject({ status: 1 });
  expect(existsSync(path)).toBe(false);
});
