/** Commands about cells in files. */
import { type Command, Option } from 'commander';
import { A_HOST, type Global, JSON_OUTPUT, LEARN, passphrase, passphraseFile, repeated } from './options.ts';

export function addStored(program: Command): void {
  program
    .command('suspend')
    .summary('store a process in a file, with its live connections; its peers wait')
    .description(
      'Takes a process (tree) off its host and into a sealed file on this machine. The other ends of its connections wait, for as ' +
        'long as it takes, until osmosis resume brings it back, on any host. TARGET is a pid of the source host or the name of a cell there.',
    )
    .argument('<target>', 'pid or cell name')
    .requiredOption('--from <host>', A_HOST)
    .requiredOption('--to <file>', 'a new file on this machine')
    .option('--name <name>', 'what to call the cell, where the process is none yet')
    .option('--drop-legacy', 'go on although connections of peers that run no agent end')
    .addOption(
      new Option(
        '--udp <policy>',
        "datagrams for it wait at their senders' hosts, within bounds, or are dropped",
      )
        .choices(['hold', 'drop'])
        .default('hold'),
    )
    .option(...LEARN)
    .option(
      '--key-file <file>',
      'key to seal it with; made where it is not there (default: FILE.key). Keep it apart from the file',
    )
    .addOption(passphraseFile('seal it with the passphrase in the first line of this file'))
    .addOption(passphrase('seal it with a passphrase that is asked for'))
    .option('--dry-run', 'print the plan and its checks; touch nothing', false)
    .option(...JSON_OUTPUT)
    .addHelpText('after', '\nExample:\n  osmosis suspend cache --from ssh://alpha --to /srv/cache.osmosis')
    .action(async (target: string, options) => {
      const { runSuspend } = await import('../commands/suspend.ts');
      await runSuspend(target, { ...program.opts<Global>(), ...options });
    });

  program
    .command('resume')
    .summary('bring a suspended process back, on any host')
    .description(
      'Restores the process of a file that osmosis suspend has made; its connections go on. A file can be resumed once.',
    )
    .argument('<file>', 'on this machine')
    .requiredOption('--on <host>', A_HOST)
    .option('--key-file <file>', 'the key that it was sealed with (default: FILE.key)')
    .addOption(passphraseFile())
    .option('--drop-gone', 'go on without connections of peers that do not wait for it (any more)')
    .option(
      '--again',
      'although an earlier resumption may have been decided: only if the process runs nowhere',
    )
    .option(
      '--publish <port>',
      "let anybody reach it at the host's own addresses: [ADDR:]PORT or [ADDR:]PORT=LISTENERPORT; may be repeated",
      repeated,
    )
    .option('--dry-run', 'say what would come back, and whether it can; touch nothing', false)
    .option(...JSON_OUTPUT)
    .addHelpText('after', '\nExample:\n  osmosis resume /srv/cache.osmosis --on ssh://beta')
    .action(async (file: string, options) => {
      const { runResume } = await import('../commands/resume.ts');
      await runResume(file, { ...program.opts<Global>(), ...options });
    });

  program
    .command('discard')
    .summary('give up a suspended process: its peers end their connections with it')
    .description(
      'Tells the hosts that wait for the process in a file that it will not come back: the connections end there, and the file ' +
        'can not be resumed any more. FILE itself stays, to be removed.',
    )
    .argument('<file>', 'on this machine')
    .option('--on <host>', 'whose agent tells them: ssh://[user@]host[:port], or local', 'local')
    .option('--key-file <file>', 'the key that it was sealed with (default: FILE.key)')
    .addOption(passphraseFile())
    .addOption(passphrase('ask for its passphrase'))
    .option('--yes', 'do not ask', false)
    .option('--dry-run', 'say what would be given up; touch nothing', false)
    .option(...JSON_OUTPUT)
    .addHelpText('after', '\nExample:\n  osmosis discard /srv/cache.osmosis --on ssh://alpha')
    .action(async (file: string, options) => {
      const { runDiscard } = await import('../commands/discard.ts');
      await runDiscard(file, { ...program.opts<Global>(), ...options });
    });

  program
    .command('inspect')
    .summary('say what is in the file of a suspended process')
    .description(
      'Without its key: when and where it was suspended, how large it is, what has become of it, and whether it is whole. With it also ' +
        'its processes, connections and listeners.',
    )
    .argument('<file>', 'on this machine')
    .option('--key-file <file>', 'the key that it was sealed with (default: FILE.key, where it is there)')
    .addOption(passphraseFile())
    .addOption(passphrase('ask for its passphrase'))
    .option(...JSON_OUTPUT)
    .addHelpText('after', '\nExample:\n  osmosis inspect /srv/cache.osmosis')
    .action(async (file: string, options) => {
      const { runInspect } = await import('../commands/inspect.ts');
      await runInspect(file, { ...program.opts<Global>(), ...options });
    });
}
