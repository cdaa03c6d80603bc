import { PassThrough } from 'node:stream';
import { stripVTControlCharacters } from 'node:util';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { startDisplay } from './display.ts';

/** Enough of a terminal to draw on. */
function terminal() {
  const stream = Object.assign(new PassThrough(), { columns: 80, rows: 24, isTTY: true });
  let text = '';
  stream.on('data', (chunk) => {
    text += chunk;
  });
  return { stream: stream as unknown as NodeJS.WriteStream, text: () => text };
}

beforeEach(() => void vi.stubEnv('TERM', 'xterm'));
afterEach(() => void vi.unstubAllEnvs());

it('draws events that came before it was ready, and gives the cursor back', async () => {
  const { stream, text } = terminal();
  const display = startDisplay({ stream, isTTY: true, json: false });
  display.emit({ event: 'phase', phase: 'plan', state: 'done', ms: 12 });
  await display.stop();
  display.emit({ event: 'blackout', ms: 999 });
  expect(stripVTControlCharacters(text())).toContain('✓ plan             12 ms');
  expect(text().lastIndexOf('\u001b[?25h')).toBeGreaterThan(text().lastIndexOf('\u001b[?25l'));
  expect(text()).not.toContain('999');
});

it.each([
  { isTTY: false, term: 'xterm' },
  { isTTY: true, term: 'dumb' },
])('writes plain lines where nothing can be drawn: %o', async ({ isTTY, term }) => {
  vi.stubEnv('TERM', term);
  const { stream, text } = terminal();
  const display = startDisplay({ stream, isTTY, json: false });
  display.emit({ event: 'phase', phase: 'plan', state: 'done', ms: 12 });
  await display.stop();
  expect(text()).toBe('plan: done in 12 ms\n');
});

it('says nothing beside a JSON result', async () => {
  const { stream, text } = terminal();
  const display = startDisplay({ stream, isTTY: true, json: true });
  display.emit({ event: 'blackout', ms: 1 });
  await display.stop();
  expect(text()).toBe('');
});
