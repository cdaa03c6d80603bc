/** Runs a command in the network namespace that it was started in, a fresh one, and takes the lab down that is there then. */
import { constants } from 'node:os';
import { join } from 'node:path';
import { execa } from 'execa';

const LAB = join(import.meta.dirname, '../fixtures/lab/cli.ts');

// Whoever ends the tests ends the command; the lab is ours to end after it.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => undefined);
await execa('ip', ['link', 'set', 'lo', 'up']);
const [file = '', ...argv] = process.argv.slice(2);
const { exitCode, signal } = await execa(file, argv, { reject: false, stdio: 'inherit' });
await execa(process.execPath, [LAB, 'down'], { stdio: 'inherit' });
process.exitCode = exitCode ?? 128 + (signal === undefined ? 0 : constants.signals[signal]);
