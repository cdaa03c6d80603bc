/** Commands that move cells while their connections go on. */
import { type Command, Option } from 'commander';
import { A_HOST, ANY_HOST, type Global, JSON_OUTPUT, LEARN, repeated } from './options.ts';

export function addMoves(program: Command): void {
  program
    .command('migrate')
    .summary('move a process from one host to another')
    .description(
      'Moves a process (tree) with its live connections. TARGET is a pid of the source host or the name of a cell there.',
    )
    .argument('<target>', 'pid or cell name')
    .requiredOption('--from <host>', A_HOST)
    .requiredOption('--to <host>', A_HOST)
    .option('--name <name>', 'what to call the cell, where the process is none yet')
    .addOption(
      new Option(
        '--relay-legacy',
        'let the source carry on the connections of peers that run no agent, for as long as it is up',
      ).conflicts('dropLegacy'),
    )
    .option('--drop-legacy', 'go on without the connections of peers that run no agent')
    .option(
      '--forward-new [lease]',
      'new connections to its old address follow it, from hosts with an agent that it has connections with, and by way of the host ' +
        'that it leaves; renewed for the lease (default: 1h) until osmosis forward --end. A new server at the old address is not reached meanwhile',
    )
    .option(...LEARN)
    .option(
      '--publish <port>',
      "let anybody reach it at the destination's own addresses: [ADDR:]PORT or [ADDR:]PORT=LISTENERPORT; may be repeated",
      repeated,
    )
    .option(
      '--sync',
      'copy what the destination lacks of the files that it has in use: executable, libraries, open files, working directory',
    )
    .option(
      '--sync-path <dir>',
      'copy this whole directory as well, in a first pass before it is frozen and what has changed since after that; may be repeated',
      repeated,
    )
    .option(
      '--force',
      'with --sync: replace files that differ at the destination (never those of the operating system)',
    )
    .option('--dry-run', 'print the plan and its checks; touch nothing', false)
    .option(...JSON_OUTPUT)
    .addHelpText(
      'after',
      '\nExamples:\n  osmosis migrate 4711 --from ssh://alpha --to ssh://beta\n  osmosis migrate db --from ssh://alpha --to ssh://beta --sync --sync-path /srv/db --dry-run',
    )
    .action(async (target: string, options) => {
      const { runMigrate } = await import('../commands/migrate.ts');
      await runMigrate(target, { ...program.opts<Global>(), ...options });
    });

  program
    .command('tui')
    .summary('hosts, cells and their connections, interactively; also what osmosis alone does on a terminal')
    .argument('[hosts...]', 'those of the fleet file, unless some are named')
    .addHelpText('after', '\nExample:\n  osmosis tui ssh://alpha ssh://beta')
    .action(async (hosts: string[]) => {
      const { runTui } = await import('../commands/tui.ts');
      await runTui(hosts, program.opts<Global>());
    });

  program
    .command('drain')
    .summary('move every cell of a host to others, for maintenance')
    .description(
      'Cordons the host, plans a place for every cell (room, CPU features, files, anti-affinity), and moves them. It carries on past a ' +
        'failure, tries elsewhere, and ends with a table. Run again, it continues. Ctrl-C: no move begins any more, those in flight end; ' +
        'again: those that are not decided yet are undone. The host stays cordoned until osmosis uncordon.',
    )
    .argument('[host]', ANY_HOST)
    .option('--self', 'this machine')
    .option('--to <hosts>', 'HOST,…: where cells may go (default: the other hosts of the fleet file)')
    .option('--parallel <n>', 'moves at the same time (default: 2)', Number)
    .option('--deadline <time>', 'no move begins after that, such as 90s or 10m; those in flight end')
    .option('--select <expr>', 'only these cells: name=redis-*,app=cache,!keep')
    .addOption(
      new Option(
        '--legacy <what>',
        'what becomes of connections whose peers run no agent: the cell stays (refuse), they end (drop), or this host goes on ' +
          'carrying them (relay), which it must stay up for (default: refuse)',
      ).choices(['relay', 'drop', 'refuse']),
    )
    .option('--sync', 'copy what the other hosts lack of the files that a cell has in use')
    .option('--reason <text>', 'what the cordon says (default: drain)')
    .option('--dry-run', 'say what would go where; touch nothing', false)
    .option('-y, --yes', 'do not ask', false)
    .option('--detach', 'go on in the background; --status says how it goes')
    .addOption(
      new Option('--status', 'how the last drain of this host goes or went').conflicts(['detach', 'dryRun']),
    )
    .option('--json', 'JSON lines on standard output, the last one the result')
    .addHelpText(
      'after',
      '\nExamples:\n  osmosis drain ssh://alpha --to ssh://beta,ssh://gamma\n  osmosis drain alpha --deadline 10m --yes --json\n  osmosis drain --status alpha',
    )
    .action(async (host: string | undefined, options) => {
      const { runDrain } = await import('../commands/drain.ts');
      await runDrain(host, { ...program.opts<Global>(), ...options });
    });
}
