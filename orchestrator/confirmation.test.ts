import { PassThrough } from 'node:stream';
import { afterEach, expect, test, vi } from 'vitest';
import { confirmed } from './confirmation.ts';

afterEach(() => {
  vi.restoreAllMocks();
});

/** Somebody at a terminal, who answers with this and goes. */
function typed(...answers: string[]): Promise<void> {
  const input = Object.assign(new PassThrough(), { isTTY: true });
  vi.spyOn(process, 'stdin', 'get').mockReturnValue(input as never);
  vi.spyOn(process.stderr, 'write').mockReturnValue(true);
  const asked = confirmed('It ends for good.', { yes: false });
  for (const answer of answers) input.write(answer);
  input.end();
  return asked;
}

test('y is yes', async () => {
  await expect(typed('y\n')).resolves.toBeUndefined();
});

test.each([['n\n'], ['\n']])('%j is no', async (answer) => {
  await expect(typed(answer)).rejects.toMatchObject({ code: 'INTERRUPTED' });
});

test('Ctrl-D is no, and no bug', async () => {
  await expect(typed()).rejects.toMatchObject({ code: 'INTERRUPTED' });
});
