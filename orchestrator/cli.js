#!/usr/bin/env node
/**
 * The command line. What this file imports by itself is loaded before the cache of compiled modules is there: JavaScript, for
 * what strips types takes a short command as long as all else that it does. The rest is loaded on demand, out of the cache.
 */
import './compile-cache.js';

const [{ program }, { report }, { outliveReader }] = await Promise.all([
  import('./command-line/program.ts'),
  import('./failure.ts'),
  import('./readers.ts'),
]);

export { program };

for (const stream of [process.stdout, process.stderr]) outliveReader(stream);

try {
  const isAlone = process.argv.length === 2 && process.stdin.isTTY && process.stdout.isTTY;
  await program.parseAsync(isAlone ? [...process.argv, 'tui'] : process.argv);
} catch (thrown) {
  process.exitCode = report(thrown);
}
