/** Commands about connections, and about who is let in by which. */
import { type Command, Option } from 'commander';
import { A_HOST, type Global, JSON_OUTPUT, LABEL, repeated } from './options.ts';

export function addConnections(program: Command): void {
  program
    .command('forward')
    .summary('let new connections to its old address follow a cell, or no longer')
    .description(
      'Begins, changes or ends what migrate --forward-new does, for a cell that has moved. While it lasts, a new server at ' +
        'the old address is not reached by the hosts that follow; connections that have begun go on when it ends.',
    )
    .argument('<cell>', 'name of the cell, or a pid of it')
    .option('--on <host>', 'where it lives: ssh://[user@]host[:port], or local', 'local')
    .addOption(
      new Option(
        '--lease <time>',
        'such as 90s, 30m or 1h: after that hosts forget it, unless it is renewed (default: as it is, or 1h)',
      ).conflicts('end'),
    )
    .option('--end', 'new connections to its old address do not follow any more')
    .option('--dry-run', 'say what would change; touch nothing', false)
    .option(...JSON_OUTPUT)
    .addHelpText('after', '\nExample:\n  osmosis forward redis --on ssh://beta --end')
    .action(async (cell: string, options) => {
      const { runForward } = await import('../commands/forward.ts');
      await runForward(cell, { ...program.opts<Global>(), ...options });
    });

  program
    .command('publish')
    .summary("let anybody reach a moved cell at its host's own addresses, or no longer")
    .description(
      'Adds endpoints of its host at which anybody reaches the listeners of a cell that has moved, or ends some.',
    )
    .argument('<cell>', 'name of the cell, or pid')
    .argument('<ports...>', '[ADDR:]PORT or [ADDR:]PORT=LISTENERPORT')
    .option('--on <host>', A_HOST, 'local')
    .option('--end', 'take them back: no new connections; those that are there go on', false)
    .option('--dry-run', 'say what would be done; touch nothing', false)
    .option(...JSON_OUTPUT)
    .addHelpText('after', '\nExample:\n  osmosis publish cache --on ssh://beta 6379')
    .action(async (cell: string, ports: string[], options) => {
      const { runPublish } = await import('../commands/publish.ts');
      await runPublish(cell, ports, { ...program.opts<Global>(), ...options });
    });

  program
    .command('keep')
    .summary('keep the connections of processes when their host changes its address')
    .description(
      'From now on the host exchanges keys for the connections of these processes with their peers, and tells those when it ' +
        'gets another address (new DHCP lease, other network): the connections go on. Cells of osmosis run, and those that ' +
        'have moved here, are kept anyway. Without targets: lists what is kept.',
    )
    .argument('[targets...]', 'pids or cell names')
    .option('--on <host>', A_HOST, 'local')
    .option('--name <name>', 'what to call the cell, where the one process is none yet')
    .option(...LABEL)
    .option('--end', 'keep them no longer', false)
    .option(
      '--leave <address>',
      'the host is about to lose this address: connections go by another one from now on, nothing is lost; may be repeated. With --end: they may stay',
      repeated,
    )
    .option('--dry-run', 'say what would change; touch nothing', false)
    .option(...JSON_OUTPUT)
    .addHelpText('after', '\nExample:\n  osmosis keep 4711 --on ssh://alpha')
    .action(async (targets: string[], options) => {
      const { runKeep } = await import('../commands/keep.ts');
      await runKeep(targets, { ...program.opts<Global>(), ...options });
    });

  program
    .command('relay')
    .summary('end the connections that hosts carry on for peers without an agent')
    .command('end')
    .description(
      'Ends relayed connections, so that nobody waits in vain when a host that relays goes. Name that host, and where it is ' +
        'reachable the host of the cell: it resets its connections at once. Without it an end learns of it when it next says something.',
    )
    .argument('[hosts...]', A_HOST, ['local'])
    .option('--cell <cell>', 'of this cell only: its name at the host where it is, or the start of its id')
    .option('--dry-run', 'only say what there is', false)
    .option(...JSON_OUTPUT)
    .addHelpText('after', '\nExample:\n  osmosis relay end ssh://alpha ssh://beta')
    .action(async (hosts: string[], options) => {
      const { runRelayEnd } = await import('../commands/relay-end.ts');
      await runRelayEnd(hosts, { ...program.opts<Global>(), ...options });
    });

  program
    .command('held')
    .summary('end connections that wait for a suspended process')
    .command('end')
    .description(
      "Ends this host's connections with a suspended process whose file is lost, or that will not come back in time. Its file, if " +
        'there is one, can be resumed with --drop-gone only. osmosis ps lists what waits, and since when.',
    )
    .argument('<cell>', 'the start of its id, as osmosis ps shows it on that host')
    .option('--on <host>', A_HOST, 'local')
    .option('--yes', 'do not ask', false)
    .option('--dry-run', 'only say what there is', false)
    .option(...JSON_OUTPUT)
    .addHelpText('after', '\nExample:\n  osmosis held end 1f2e3d4c --on ssh://peer')
    .action(async (cell: string, options) => {
      const { runHeldEnd } = await import('../commands/held-end.ts');
      await runHeldEnd(cell, { ...program.opts<Global>(), ...options });
    });
}
