import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { shellQuoted } from './execute.ts';
import { executeLocally } from './execute-locally.ts';

const HERE = { signal: new AbortController().signal, timeoutMs: 10_000 };

describe('a program here', () => {
  it('gives its output and status', async () => {
    const argv = ['sh', '-c', 'cat; echo said >&2; exit 3'];
    const done = await executeLocally(argv, { ...HERE, input: 'asked' });
    expect(done).toEqual({ status: 3, stdout: 'asked', stderr: 'said' });
  });

  it('is given up when it takes too long, is interrupted, or is not there', async () => {
    const sleeping = ['sleep', '10'];
    await expect(executeLocally(sleeping, { ...HERE, timeoutMs: 50 })).rejects.toMatchObject({
      code: 'TIMEOUT',
    });
    const signal = AbortSignal.timeout(50);
    await expect(executeLocally(sleeping, { ...HERE, signal })).rejects.toMatchObject({
      code: 'INTERRUPTED',
    });
    await expect(executeLocally(['no-such-program'], HERE)).rejects.toMatchObject({ code: 'INTERNAL' });
  });
});

describe('words for a shell', () => {
  it('come out of it as they went in', async () => {
    const word = fc
      .string({ unit: 'binary', minLength: 1, maxLength: 20 })
      .filter((text) => !text.includes('\0'));
    await fc.assert(
      fc.asyncProperty(fc.array(word, { minLength: 1, maxLength: 4 }), async (words) => {
        const command = shellQuoted(['printf', '%s\\0', ...words]);
        const { stdout } = await executeLocally(['sh', '-c', command], HERE);
        expect(stdout.split('\0').slice(0, -1)).toEqual(words);
      }),
      { numRuns: 20 },
    );
  });
});
