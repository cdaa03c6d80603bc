import { expect, test } from 'vitest';
import { generateKeyPair } from '../wire/h2o-session.ts';
import { type LogOptions, makeLog, textLine } from './log.ts';

function linesOf(options: Partial<LogOptions>, say: (log: ReturnType<typeof makeLog>) => void): string[] {
  const lines: string[] = [];
  say(makeLog({ format: 'json', level: 'info', ...options }, (line) => void lines.push(line)));
  return lines;
}

test('a line of JSON has time, level, message and fields that programs can read', () => {
  const [line = ''] = linesOf({}, (log) => log.warn({ cell: 'redis', peer: '10.77.4.2' }, 'what happened'));
  const entry = JSON.parse(line) as Record<string, unknown>;
  expect(entry).toMatchObject({ level: 'warn', cell: 'redis', peer: '10.77.4.2', msg: 'what happened' });
  expect(entry.time).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
});

test('a line of text says when, how bad, what, and then where', () => {
  const entry = {
    level: 'info',
    time: '2026-11-23T03:00:00.123Z',
    version: '0.1.0',
    migration: 'ab'.repeat(16),
    frozen_ms: 41.23456,
    cell: 'redis',
    role: 'source',
    why: 'two words',
    to: ['a', 'b'],
    msg: 'the process was frozen',
  };
  expect(textLine(entry)).toBe(
    `2026-11-23T03:00:00.123Z INFO  the process was frozen  role=source cell=redis frozen_ms=41.2 why="two words" to=["a","b"] migration=${'ab'.repeat(16)}\n`,
  );
  expect(textLine({ level: 'error', time: 'T', msg: 'one\n  two' })).toBe('T ERROR one two\n');
});

test('text is one line an entry, whatever a field has', () => {
  const [line = ''] = linesOf({ format: 'text' }, (log) => log.error({ error: 'one\ntwo' }, 'bad'));
  expect(line).toMatch(/ ERROR bad {2}error="one\\ntwo"\n$/);
});

test('levels below the one that was asked for are not written', () => {
  const said = linesOf({ level: 'warn' }, (log) => {
    log.info('no');
    log.warn('yes');
  });
  expect(said).toHaveLength(1);
});

test('no bytes get into a line, however deep: they may be keys', () => {
  const { secretKey } = generateKeyPair();
  const keys = { address: '10.77.4.2', secretKey, nested: [{ toPeer: Buffer.from(secretKey) }] };
  for (const format of ['json', 'text'] as const) {
    const [line = ''] = linesOf({ format }, (log) => log.warn({ keys, secretKey }, 'said'));
    expect(line).toContain('(32 bytes)');
    const forms = [
      ...(['hex', 'base64', 'latin1'] as const).map((encoding) => Buffer.from(secretKey).toString(encoding)),
      [...secretKey.subarray(0, 4)].join(','),
      `"0":${secretKey[0]}`,
    ];
    for (const form of forms) expect(line).not.toContain(form);
  }
});

test('what is too deep or too long for a line is cut', () => {
  const deep = { a: { b: { c: { d: { e: 1 } } } } };
  const [line = ''] = linesOf({}, (log) => log.info({ deep, many: Array(1_000).fill(1) }, 'said'));
  expect(line).toContain('(more)');
  expect(line.length).toBeLessThan(1_000);
});
