/** Commands that start programs in cells, and show them. */
import type { Command } from 'commander';
import { A_HOST, type Global, JSON_OUTPUT, LABEL } from './options.ts';

export function addPrograms(program: Command): void {
  program
    .command('run')
    .summary('start a program in a cell')
    .description(
      "Starts a program in a cell on a host: in a PID namespace of its own, on the host's network, detached. With -t in a terminal " +
        "that moves along, and is shown here: this command ends with the program's exit status then, or with 0 after C-\\ d.",
    )
    .argument('<command...>', 'the program and its arguments, after --')
    .option('--name <name>', 'what to call the cell')
    .option(...LABEL)
    .option('--on <host>', A_HOST, 'local')
    .option(...JSON_OUTPUT)
    .option('--as-is', 'do not deny it io_uring, nor turn MPTCP off: with either it could not move', false)
    .option('-t, --terminal', 'in a terminal of its own (needs tmux on the host), and attached to it', false)
    .option('-d, --detach', 'with -t: not attached; osmosis attach does that later', false)
    .option('--escape <key>', 'with -t: the key that detaches, with d after it: C-a, C-], …, or none', 'C-\\')
    .addHelpText(
      'after',
      '\nExamples:\n  osmosis run --name cache -- redis-server --port 7000\n  osmosis run -t --on ssh://alpha --name notes -- vim -n /srv/notes.txt',
    )
    .action(async (command: string[], options) => {
      const { runRun } = await import('../commands/run.ts');
      await runRun(command, { ...program.opts<Global>(), ...options });
    });

  program
    .command('attach')
    .summary('show the terminal of a cell here, wherever the cell goes')
    .description(
      'Shows the terminal of a program that osmosis run -t has started, on whatever host it is. Where the cell is moved this follows; ' +
        'what is typed meanwhile arrives. C-\\ d detaches, and the program goes on. The exit status is 0 then, and that of the ' +
        'program where it ends (128 + N: by signal N).',
    )
    .argument('<cell>', 'name or id of the cell')
    .option(
      '--on <host>',
      'ssh://[user@]host[:port], or local (default: asks this machine and the hosts of the fleet file)',
    )
    .option('--json', 'at the end, one JSON object on standard output')
    .addHelpText('after', '\nExample:\n  osmosis attach notes --on ssh://alpha')
    .action(async (cell: string, options) => {
      const { runAttach } = await import('../commands/attach.ts');
      await runAttach(cell, { ...program.opts<Global>(), ...options });
    });
}
