/** Runs a command in the network namespace that it was started in, a fresh one, and takes the lab down that is there then. */
import { constants } from 'node:os';
import { join } from 'node:path';
import { execa } from 'execa';

const LAB = join(import.meta.dirname, '../fixtures/lab/cli.ts');

await execa('ip', ['link', 'set', 'lo', 'up']);
const [file = '', ...argv] = process.argv.slice(2);
const command = execa(file, argv, { reject: false, stdio: 'inherit' });
// The command ends first, the lab, which is ours to end, after it. A terminal sends Ctrl-C to the command as well.
process.on('SIGINT', () => undefined);
for (const signal of ['SIGTERM', 'SIGHUP'] as const) process.on(signal, () => void command.kill(signal));
const { exitCode, signal } = await command;
await execa(process.execPath, [LAB, 'down'], { stdio: 'inherit' });
process.exitCode = exitCode ?? 128 + (signal === undefined ? 0 : constants.signals[signal]);
