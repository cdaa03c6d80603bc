/** What a shell wants of the command line. */
import { Argument, type Command } from 'commander';
import type { Shell } from '../completion/scripts.ts';
import type { Global } from './options.ts';

export function addShell(program: Command): void {
  program
    .command('completion')
    .summary('make a shell complete osmosis commands, options, hosts and cells')
    .description(
      'Prints what the shell is to source. Hosts are those of the fleet file, or else of ssh_config; cells are those of this machine.',
    )
    .addArgument(new Argument('<shell>', 'which shell').choices(['bash', 'zsh', 'fish']))
    .addHelpText(
      'after',
      '\nExamples:\n  source <(osmosis completion bash)\n  osmosis completion bash > /usr/share/bash-completion/completions/osmosis\n' +
        '  osmosis completion zsh > /usr/local/share/zsh/site-functions/_osmosis\n  osmosis completion fish > ~/.config/fish/completions/osmosis.fish',
    )
    .action(async (shell: Shell) => {
      const { completionScript } = await import('../completion/scripts.ts');
      process.stdout.write(completionScript(shell));
    });

  program
    .command('complete', { hidden: true })
    .description('What may stand at the cursor: value, tab, description a line. Shells run this.')
    .argument('[words...]', 'those behind osmosis, the last one being typed')
    .option('--line <text>', 'the whole line up to the cursor instead')
    .action(async (words: string[], options) => {
      const { runComplete } = await import('../commands/complete.ts');
      await runComplete(program, words, { ...program.opts<Global>(), ...options });
    });
}
