/** A command whose reader goes away goes on to its end. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';

const READERS = fileURLToPath(new URL('readers.ts', import.meta.url));
/** Writes to both long after nobody reads any more, then says by its status that it has come to its end. */
const PROGRAM = `
  const { outliveReader } = await import(process.argv[1]);
  for (const stream of [process.stdout, process.stderr]) outliveReader(stream);
  process.stdout.write('begun');
  await new Promise((resolve) => process.stdin.on('end', resolve).resume());
  for (let lines = 0; lines < 5; lines++) {
    for (const stream of [process.stdout, process.stderr]) stream.write('x');
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  process.exitCode = 7;
`;

test('nobody reads standard output and standard error any more', async () => {
  const child = spawn(process.execPath, ['--input-type=module', '-e', PROGRAM, READERS]);
  await once(child.stdout, 'data');
  child.stdout.destroy();
  child.stderr.destroy();
  child.stdin.end();
  expect(await once(child, 'exit')).toEqual([7, null]);
});
