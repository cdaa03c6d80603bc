/** Every command says what it is for, how to use it, and what each of its options means. */
import type { Command } from 'commander';
import { afterAll, expect, test, vi } from 'vitest';

/** Importing the command line runs it: with this it prints its version. */
const { argv } = vi.hoisted(() => {
  const before = process.argv;
  process.argv = ['node', 'osmosis', '--version'];
  vi.spyOn(process.stdout, 'write').mockReturnValue(true);
  return { argv: before };
});
const { program } = await import('./cli.js');
vi.restoreAllMocks();
afterAll(() => {
  process.argv = argv;
  process.exitCode = undefined;
});

function helpOf(command: Command): string {
  let text = '';
  command.configureOutput({
    writeOut: (piece) => {
      text += piece;
    },
  });
  command.outputHelp();
  return text;
}

function all(command: Command, path = ''): { path: string; command: Command }[] {
  const visible = command.createHelp().visibleCommands(command);
  const below = visible.filter((each) => each.name() !== 'help');
  return below.flatMap((each) => [
    { path: `${path}${each.name()}`, command: each },
    ...all(each, `${path}${each.name()} `),
  ]);
}

const commands = all(program);
const leaves = commands.filter(({ command }) => command.commands.length === 0 || command.name() === 'agent');

test('there are commands', () => {
  expect(commands.length).toBeGreaterThan(25);
  expect(leaves.map(({ path }) => path)).toEqual(expect.arrayContaining(['migrate', 'trust pin', 'agent']));
});

test.each(leaves)(
  '$path: a description, an example that names it, and a word on every option',
  ({ path, command }) => {
    expect(command.summary() || command.description(), 'summary').not.toBe('');
    const help = helpOf(command);
    expect(help).toMatch(/^Examples?:$/m);
    expect(help).toContain(`osmosis ${path}`);
    expect(help, 'exit statuses').toContain('docs/errors.md');
    for (const { flags, description } of command.options) expect(description, flags).not.toBe('');
    for (const argument of command.registeredArguments)
      expect(argument.description, argument.name()).not.toBe('');
  },
);

test.each(commands)('$path: lines of examples begin with what can be typed', ({ command }) => {
  const examples = /^Examples?:\n((?: {2}.*\n?)+)/m.exec(helpOf(command))?.[1] ?? '';
  for (const line of examples.split('\n').filter(Boolean)) expect(line).toMatch(/^ {2}(osmosis|source) ?/);
});

test('commands are in groups', () => {
  const help = helpOf(program);
  for (const group of ['Move:', 'Hosts:', 'Look:', 'Set up:']) expect(help).toContain(`\n${group}\n`);
});
