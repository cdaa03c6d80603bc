/** Commands that put Osmosis on hosts, and take it off. */
import type { Command } from 'commander';
import { type Global, JSON_OUTPUT } from './options.ts';

const installing = (command: Command) =>
  command
    .argument('<host>', 'name in the fleet file, ssh://[user@]host[:port], or local; as root')
    .option(
      '--package <file>',
      'what npm run package has made (default: dist/osmosis-VERSION-linux-ARCH.tgz)',
    )
    .option('--apt', 'install the Debian packages that are missing there', false)
    .option(
      '--supervised',
      'there is no systemd, but something else starts the agent again whenever it ends (a container, runit, …): rely on that',
      false,
    )
    .option('--dry-run', 'look, and say what would be done; touch nothing', false)
    .option(...JSON_OUTPUT);

export function addInstalling(program: Command): void {
  installing(program.command('install'))
    .summary('put Osmosis on a host')
    .description(
      'Looks at the host as osmosis doctor does, sends the package over SSH, unpacks it in /usr/local/lib/osmosis, puts osmosis in ' +
        '/usr/local/bin, and starts the agent (systemd: osmosis-agent). Either all of it is there afterwards, or nothing.',
    )
    .addHelpText(
      'after',
      '\nExample:\n  osmosis install ssh://root@alpha --package dist/osmosis-0.1.0-linux-x64.tgz',
    )
    .action(async (host: string, options) => {
      const { runInstall } = await import('../commands/install.ts');
      await runInstall(host, { ...program.opts<Global>(), ...options });
    });

  installing(program.command('upgrade'))
    .summary('put another version of Osmosis on a host')
    .description(
      'As install, where it is installed. Cells and moved connections go on while the agent is replaced. Where the new agent does not ' +
        'answer, the host gets the version back that it had. Not while a cell is just being moved.',
    )
    .addHelpText('after', '\nExample:\n  osmosis upgrade ssh://alpha --package osmosis-0.2.0-linux-x64.tgz')
    .action(async (host: string, options) => {
      const { runUpgrade } = await import('../commands/install.ts');
      await runUpgrade(host, { ...program.opts<Global>(), ...options });
    });

  program
    .command('uninstall')
    .summary('take Osmosis off a host')
    .description(
      'Ends the agent and removes all that install has put there, and all that the agent has written. Refuses while cells, or ' +
        'connections with moved cells, need the agent.',
    )
    .argument('<host>', 'name in the fleet file, ssh://[user@]host[:port], or local; as root')
    .option('--keep-identity', 'keep /var/lib/osmosis/trust: who the agent was, and whom it knew', false)
    .option('--force', 'although cells are there, or connections need the agent: those end', false)
    .option('--dry-run', 'say what would be removed; touch nothing', false)
    .option(...JSON_OUTPUT)
    .addHelpText('after', '\nExample:\n  osmosis drain ssh://alpha && osmosis uninstall ssh://alpha')
    .action(async (host: string, options) => {
      const { runUninstall } = await import('../commands/install.ts');
      await runUninstall(host, { ...program.opts<Global>(), ...options });
    });
}
