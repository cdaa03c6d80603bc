#!/usr/bin/env node
/** The command line. Every command loads what it needs only: the agent never loads ssh2 or the display. */
import './compile-cache.ts';
import { Argument, Command, CommanderError, Option } from 'commander';
import { asOsmosisError, EXIT_STATUS, type OsmosisError } from '../agent/error.ts';
import { VERSION } from '../agent/version.ts';
import type { Shell } from './completion/scripts.ts';
import { completeHelp } from './help.ts';

type Global = { readonly json?: boolean; readonly sshConfig?: string; readonly fleet?: string };

const LABEL = [
  '--label <key=value>',
  'for osmosis drain: where it may be placed, beside which others (anti-affinity=GROUP, prefer-apart=GROUP), and --select; may be repeated',
  (value: string, before: string[] = []) => [...before, value],
] as const;

export const program = new Command('osmosis')
  .description('Moves a running process, with its live connections, to another host')
  .version(VERSION)
  .exitOverride()
  .configureOutput({ writeErr: (text) => void process.stderr.write(text) })
  .addOption(
    new Option('-F, --ssh-config <file>', 'ssh_config(5) file in place of the usual ones').env(
      'OSMOSIS_SSH_CONFIG',
    ),
  )
  .addOption(
    new Option(
      '--fleet <file>',
      'which hosts there are, by name (default: osmosis.yaml here, ~/.config/osmosis/fleet.yaml, /etc/osmosis/fleet.yaml)',
    ).env('OSMOSIS_FLEET'),
  );

program
  .command('migrate')
  .summary('move a process from one host to another')
  .description(
    'Moves a process (tree) with its live connections. TARGET is a pid of the source host or the name of a cell there.',
  )
  .argument('<target>', 'pid or cell name')
  .requiredOption('--from <host>', 'ssh://[user@]host[:port], or local')
  .requiredOption('--to <host>', 'ssh://[user@]host[:port], or local')
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
  .option(
    '--learn <seconds>',
    'listen for so long who exchanges datagrams with unconnected UDP sockets (default: 1)',
    Number,
  )
  .option(
    '--publish <port>',
    "let anybody reach it at the destination's own addresses: [ADDR:]PORT or [ADDR:]PORT=LISTENERPORT; may be repeated",
    (value: string, before: string[] = []) => [...before, value],
  )
  .option(
    '--sync',
    'copy what the destination lacks of the files that it has in use: executable, libraries, open files, working directory',
  )
  .option(
    '--sync-path <dir>',
    'copy this whole directory as well, in a first pass before it is frozen and what has changed since after that; may be repeated',
    (value: string, before: string[] = []) => [...before, value],
  )
  .option(
    '--force',
    'with --sync: replace files that differ at the destination (never those of the operating system)',
  )
  .option('--dry-run', 'print the plan and its checks; touch nothing', false)
  .option('--json', 'one JSON object on standard output')
  .addHelpText(
    'after',
    '\nExamples:\n  osmosis migrate 4711 --from ssh://alpha --to ssh://beta\n  osmosis migrate db --from ssh://alpha --to ssh://beta --sync --sync-path /srv/db --dry-run',
  )
  .action(async (target: string, options) => {
    const { runMigrate } = await import('./commands/migrate.ts');
    await runMigrate(target, { ...program.opts<Global>(), ...options });
  });

program
  .command('tui')
  .summary('hosts, cells and their connections, interactively; also what osmosis alone does on a terminal')
  .argument('[hosts...]', 'those of the fleet file, unless some are named')
  .addHelpText('after', '\nExample:\n  osmosis tui ssh://alpha ssh://beta')
  .action(async (hosts: string[]) => {
    const { runTui } = await import('./commands/tui.ts');
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
  .argument('[host]', 'name in the fleet file, ssh://[user@]host[:port], or local')
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
    const { runDrain } = await import('./commands/drain.ts');
    await runDrain(host, { ...program.opts<Global>(), ...options });
  });

program
  .command('cordon')
  .summary('place no cell on a host any more')
  .argument('<host>', 'name in the fleet file, ssh://[user@]host[:port], or local')
  .option('--reason <text>', 'for whoever wonders')
  .option('--dry-run', 'say what would change; touch nothing', false)
  .option('--json', 'one JSON object on standard output')
  .addHelpText('after', '\nExample:\n  osmosis cordon ssh://alpha --reason "new memory on Monday"')
  .action(async (host: string, options) => {
    const { runCordon } = await import('./commands/cordon.ts');
    await runCordon(host, { ...program.opts<Global>(), ...options });
  });

program
  .command('uncordon')
  .summary('place cells on a host again')
  .argument('<host>', 'name in the fleet file, ssh://[user@]host[:port], or local')
  .option('--if-reason <text>', 'only where it was cordoned for this')
  .option('--dry-run', 'say what would change; touch nothing', false)
  .option('--json', 'one JSON object on standard output')
  .addHelpText('after', '\nExample:\n  osmosis uncordon ssh://alpha')
  .action(async (host: string, options) => {
    const { runUncordon } = await import('./commands/cordon.ts');
    await runUncordon(host, { ...program.opts<Global>(), ...options });
  });

program
  .command('hosts')
  .summary('which hosts answer, their versions, load and cells')
  .argument('[hosts...]', 'those of the fleet file, unless some are named')
  .option('--select <expr>', 'only these of the fleet file: zone=a,name!=web-*')
  .option('--schema', 'print the JSON schema of the fleet file', false)
  .option('--json', 'one JSON object on standard output')
  .addHelpText('after', '\nExamples:\n  osmosis hosts\n  osmosis --fleet fleet.yaml hosts --select zone=a')
  .action(async (hosts: string[], options) => {
    const { runHosts } = await import('./commands/fleet.ts');
    await runHosts(hosts, { ...program.opts<Global>(), ...options });
  });

program
  .command('doctor')
  .summary('say what hosts lack, and how to mend it')
  .description(
    'Looks at everything that a host needs, over plain SSH where no agent is there yet: kernel, CRIU, programs, room, settings, the ' +
      'agent; with several hosts also whether they reach one another by UDP port 18018, and how far their clocks are apart. Changes nothing.',
  )
  .argument('[hosts...]', 'names in the fleet file, ssh://[user@]host[:port], or local (default: local)')
  .option('--all', 'every host of the fleet file')
  .option('--json', 'one JSON object on standard output')
  .addHelpText(
    'after',
    '\nExit status: 0, or 18 where something has to be mended (FAIL).\nExamples:\n  osmosis doctor\n  osmosis doctor ssh://alpha ssh://beta ssh://peer',
  )
  .action(async (hosts: string[], options) => {
    const { runDoctor } = await import('./commands/doctor.ts');
    await runDoctor(hosts, { ...program.opts<Global>(), ...options });
  });

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
    .option('--json', 'one JSON object on standard output');

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
    const { runInstall } = await import('./commands/install.ts');
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
    const { runUpgrade } = await import('./commands/install.ts');
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
  .option('--json', 'one JSON object on standard output')
  .addHelpText('after', '\nExample:\n  osmosis drain ssh://alpha && osmosis uninstall ssh://alpha')
  .action(async (host: string, options) => {
    const { runUninstall } = await import('./commands/install.ts');
    await runUninstall(host, { ...program.opts<Global>(), ...options });
  });

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
  .option('--json', 'one JSON object on standard output')
  .addHelpText('after', '\nExample:\n  osmosis forward redis --on ssh://beta --end')
  .action(async (cell: string, options) => {
    const { runForward } = await import('./commands/forward.ts');
    await runForward(cell, { ...program.opts<Global>(), ...options });
  });

program
  .command('suspend')
  .summary('store a process in a file, with its live connections; its peers wait')
  .description(
    'Takes a process (tree) off its host and into a sealed file on this machine. The other ends of its connections wait, for as ' +
      'long as it takes, until osmosis resume brings it back, on any host. TARGET is a pid of the source host or the name of a cell there.',
  )
  .argument('<target>', 'pid or cell name')
  .requiredOption('--from <host>', 'ssh://[user@]host[:port], or local')
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
  .option(
    '--learn <seconds>',
    'listen for so long who exchanges datagrams with unconnected UDP sockets (default: 1)',
    Number,
  )
  .option(
    '--key-file <file>',
    'key to seal it with; made where it is not there (default: FILE.key). Keep it apart from the file',
  )
  .addOption(
    new Option(
      '--passphrase-file <file>',
      'seal it with the passphrase in the first line of this file',
    ).conflicts('keyFile'),
  )
  .addOption(
    new Option('--passphrase', 'seal it with a passphrase that is asked for').conflicts([
      'keyFile',
      'passphraseFile',
    ]),
  )
  .option('--dry-run', 'print the plan and its checks; touch nothing', false)
  .option('--json', 'one JSON object on standard output')
  .addHelpText('after', '\nExample:\n  osmosis suspend cache --from ssh://alpha --to /srv/cache.osmosis')
  .action(async (target: string, options) => {
    const { runSuspend } = await import('./commands/suspend.ts');
    await runSuspend(target, { ...program.opts<Global>(), ...options });
  });

program
  .command('resume')
  .summary('bring a suspended process back, on any host')
  .description(
    'Restores the process of a file that osmosis suspend has made; its connections go on. A file can be resumed once.',
  )
  .argument('<file>', 'on this machine')
  .requiredOption('--on <host>', 'ssh://[user@]host[:port], or local')
  .option('--key-file <file>', 'the key that it was sealed with (default: FILE.key)')
  .addOption(
    new Option('--passphrase-file <file>', 'its passphrase is the first line of this file').conflicts(
      'keyFile',
    ),
  )
  .option('--drop-gone', 'go on without connections of peers that do not wait for it (any more)')
  .option('--again', 'although an earlier resumption may have been decided: only if the process runs nowhere')
  .option(
    '--publish <port>',
    "let anybody reach it at the host's own addresses: [ADDR:]PORT or [ADDR:]PORT=LISTENERPORT; may be repeated",
    (value: string, before: string[] = []) => [...before, value],
  )
  .option('--dry-run', 'say what would come back, and whether it can; touch nothing', false)
  .option('--json', 'one JSON object on standard output')
  .addHelpText('after', '\nExample:\n  osmosis resume /srv/cache.osmosis --on ssh://beta')
  .action(async (file: string, options) => {
    const { runResume } = await import('./commands/resume.ts');
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
  .addOption(
    new Option('--passphrase-file <file>', 'its passphrase is the first line of this file').conflicts(
      'keyFile',
    ),
  )
  .addOption(new Option('--passphrase', 'ask for its passphrase').conflicts(['keyFile', 'passphraseFile']))
  .option('--yes', 'do not ask', false)
  .option('--dry-run', 'say what would be given up; touch nothing', false)
  .option('--json', 'one JSON object on standard output')
  .addHelpText('after', '\nExample:\n  osmosis discard /srv/cache.osmosis --on ssh://alpha')
  .action(async (file: string, options) => {
    const { runDiscard } = await import('./commands/discard.ts');
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
  .addOption(
    new Option('--passphrase-file <file>', 'its passphrase is the first line of this file').conflicts(
      'keyFile',
    ),
  )
  .addOption(new Option('--passphrase', 'ask for its passphrase').conflicts(['keyFile', 'passphraseFile']))
  .option('--json', 'one JSON object on standard output')
  .addHelpText('after', '\nExample:\n  osmosis inspect /srv/cache.osmosis')
  .action(async (file: string, options) => {
    const { runInspect } = await import('./commands/inspect.ts');
    await runInspect(file, { ...program.opts<Global>(), ...options });
  });

program
  .command('ps')
  .summary('list cells and their flows')
  .argument('[hosts...]', 'ssh://[user@]host[:port], or local', ['local'])
  .option('--json', 'one JSON object on standard output')
  .action(async (hosts: string[], options) => {
    const { runPs } = await import('./commands/ps.ts');
    await runPs(hosts, { ...program.opts<Global>(), ...options });
  });

program
  .command('publish')
  .summary("let anybody reach a moved cell at its host's own addresses, or no longer")
  .description(
    'Adds endpoints of its host at which anybody reaches the listeners of a cell that has moved, or ends some.',
  )
  .argument('<cell>', 'name of the cell, or pid')
  .argument('<ports...>', '[ADDR:]PORT or [ADDR:]PORT=LISTENERPORT')
  .option('--on <host>', 'ssh://[user@]host[:port], or local', 'local')
  .option('--end', 'take them back: no new connections; those that are there go on', false)
  .option('--dry-run', 'say what would be done; touch nothing', false)
  .option('--json', 'one JSON object on standard output')
  .addHelpText('after', '\nExample:\n  osmosis publish cache --on ssh://beta 6379')
  .action(async (cell: string, ports: string[], options) => {
    const { runPublish } = await import('./commands/publish.ts');
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
  .option('--on <host>', 'ssh://[user@]host[:port], or local', 'local')
  .option('--name <name>', 'what to call the cell, where the one process is none yet')
  .option(...LABEL)
  .option('--end', 'keep them no longer', false)
  .option(
    '--leave <address>',
    'the host is about to lose this address: connections go by another one from now on, nothing is lost; may be repeated. With --end: they may stay',
    (value: string, before: string[] = []) => [...before, value],
  )
  .option('--dry-run', 'say what would change; touch nothing', false)
  .option('--json', 'one JSON object on standard output')
  .addHelpText('after', '\nExample:\n  osmosis keep 4711 --on ssh://alpha')
  .action(async (targets: string[], options) => {
    const { runKeep } = await import('./commands/keep.ts');
    await runKeep(targets, { ...program.opts<Global>(), ...options });
  });

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
  .option('--on <host>', 'ssh://[user@]host[:port], or local', 'local')
  .option('--json', 'one JSON object on standard output')
  .option('--as-is', 'do not deny it io_uring, nor turn MPTCP off: with either it could not move', false)
  .option('-t, --terminal', 'in a terminal of its own (needs tmux on the host), and attached to it', false)
  .option('-d, --detach', 'with -t: not attached; osmosis attach does that later', false)
  .option('--escape <key>', 'with -t: the key that detaches, with d after it: C-a, C-], …, or none', 'C-\\')
  .addHelpText(
    'after',
    '\nExamples:\n  osmosis run --name cache -- redis-server --port 7000\n  osmosis run -t --on ssh://alpha --name notes -- vim -n /srv/notes.txt',
  )
  .action(async (command: string[], options) => {
    const { runRun } = await import('./commands/run.ts');
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
    const { runAttach } = await import('./commands/attach.ts');
    await runAttach(cell, { ...program.opts<Global>(), ...options });
  });

program
  .command('datapath')
  .summary('list the entries of the datapath')
  .argument('[host]', 'ssh://[user@]host[:port], or local', 'local')
  .option('--json', 'one JSON object on standard output')
  .action(async (host: string, options) => {
    const { runDatapath } = await import('./commands/datapath.ts');
    await runDatapath(host, { ...program.opts<Global>(), ...options });
  });

program
  .command('metrics')
  .summary('what the agent of a host counts, as Prometheus reads it')
  .description(
    "Prints the agent's metrics in Prometheus' text format, over SSH or the agent's socket: for a look, or for the textfile collector " +
      'of node_exporter. osmosis agent --metrics serves the same over HTTP.',
  )
  .argument('[host]', 'name in the fleet file, ssh://[user@]host[:port], or local', 'local')
  .option('--json', 'one JSON object on standard output, with the text in it')
  .addHelpText(
    'after',
    '\nExamples:\n  osmosis metrics ssh://alpha\n  osmosis metrics > osmosis.prom.new && mv osmosis.prom.new /var/lib/prometheus/node-exporter/osmosis.prom',
  )
  .action(async (host: string, options) => {
    const { runMetrics } = await import('./commands/metrics.ts');
    await runMetrics(host, { ...program.opts<Global>(), ...options });
  });

program
  .command('relay')
  .summary('end the connections that hosts carry on for peers without an agent')
  .command('end')
  .description(
    'Ends relayed connections, so that nobody waits in vain when a host that relays goes. Name that host, and where it is ' +
      'reachable the host of the cell: it resets its connections at once. Without it an end learns of it when it next says something.',
  )
  .argument('[hosts...]', 'ssh://[user@]host[:port], or local', ['local'])
  .option('--cell <cell>', 'of this cell only: its name at the host where it is, or the start of its id')
  .option('--dry-run', 'only say what there is', false)
  .option('--json', 'one JSON object on standard output')
  .addHelpText('after', '\nExample:\n  osmosis relay end ssh://alpha ssh://beta')
  .action(async (hosts: string[], options) => {
    const { runRelayEnd } = await import('./commands/relay-end.ts');
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
  .option('--on <host>', 'ssh://[user@]host[:port], or local', 'local')
  .option('--yes', 'do not ask', false)
  .option('--dry-run', 'only say what there is', false)
  .option('--json', 'one JSON object on standard output')
  .addHelpText('after', '\nExample:\n  osmosis held end 1f2e3d4c --on ssh://peer')
  .action(async (cell: string, options) => {
    const { runHeldEnd } = await import('./commands/held-end.ts');
    await runHeldEnd(cell, { ...program.opts<Global>(), ...options });
  });

const trust = program
  .command('trust')
  .summary('which agents a host believes: list, pin, revoke, import, policy')
  .description(
    'Every agent has an identity (Ed25519). A host knows others by address: those that came first, or those that were pinned.',
  );

const onHost = (command: Command) =>
  command
    .option('--on <host>', 'whose list: ssh://[user@]host[:port], or local', 'local')
    .option('--json', 'one JSON object on standard output');
const dryRun = (command: Command) =>
  command.option('--dry-run', 'say what would change; touch nothing', false);
const REPLACE = [
  '--replace',
  'also where another identity is pinned, or where this one was revoked',
] as const;

onHost(trust.command('list').summary('its own identity, whom it knows, and whom it has refused')).action(
  async (options) => {
    const { runTrustList } = await import('./commands/trust.ts');
    await runTrustList({ ...program.opts<Global>(), ...options });
  },
);

dryRun(onHost(trust.command('pin').summary('believe this identity, and no other, at this address')))
  .argument('<host>', 'address, or a name of it')
  .argument('<identity>', "SHA256:… or 'ssh-ed25519 AAAA…', as trust list shows it there")
  .option(...REPLACE, false)
  .action(async (host: string, identity: string, options) => {
    const { runTrustPin } = await import('./commands/trust.ts');
    await runTrustPin(host, identity, { ...program.opts<Global>(), ...options });
  });

dryRun(onHost(trust.command('revoke').summary('refuse an identity everywhere, until it is pinned again')))
  .argument('<identity>', 'SHA256:…, or the address or name at which it is known')
  .action(async (what: string, options) => {
    const { runTrustRevoke } = await import('./commands/trust.ts');
    await runTrustRevoke(what, { ...program.opts<Global>(), ...options });
  });

dryRun(onHost(trust.command('policy').summary('what it makes of strangers; without a policy: which it has')))
  .argument('[policy]', 'first-use or pinned')
  .action(async (policy: string | undefined, options) => {
    const { runTrustPolicy } = await import('./commands/trust.ts');
    await runTrustPolicy(policy, { ...program.opts<Global>(), ...options });
  });

dryRun(trust.command('import'))
  .summary('let hosts that SSH trusts pin one another')
  .description(
    'Asks the agent of each host, over SSH, for its identity and addresses, and pins them at all the others.',
  )
  .argument('<hosts...>', 'ssh://[user@]host[:port], or local')
  .option(...REPLACE, false)
  .option('--json', 'one JSON object on standard output')
  .addHelpText('after', '\nExample:\n  osmosis trust import ssh://alpha ssh://beta ssh://peer')
  .action(async (hosts: string[], options) => {
    const { runTrustImport } = await import('./commands/trust.ts');
    await runTrustImport(hosts, { ...program.opts<Global>(), ...options });
  });

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
    const { completionScript } = await import('./completion/scripts.ts');
    process.stdout.write(completionScript(shell));
  });

program
  .command('complete', { hidden: true })
  .description('What may stand at the cursor: value, tab, description a line. Shells run this.')
  .argument('[words...]', 'those behind osmosis, the last one being typed')
  .option('--line <text>', 'the whole line up to the cursor instead')
  .action(async (words: string[], options) => {
    const { runComplete } = await import('./commands/complete.ts');
    await runComplete(program, words, { ...program.opts<Global>(), ...options });
  });

const agent = program
  .command('agent')
  .summary('run the agent of this host')
  .description(
    'Runs in the foreground and logs to standard error; Unix socket /run/osmosis/agent.sock, UDP port 18018. Connections that ' +
      'have moved go on while no agent runs.',
  )
  .addOption(
    new Option(
      '--metrics <address>',
      'serve GET /metrics for Prometheus over HTTP: PORT (of 127.0.0.1), ADDRESS:PORT or [IPV6]:PORT (default: not; osmosis metrics has the same)',
    ).env('OSMOSIS_METRICS'),
  )
  .addOption(
    new Option('--log-format <format>', 'lines of JSON, or text for people')
      .choices(['json', 'text'])
      .default('json')
      .env('OSMOSIS_LOG_FORMAT'),
  )
  .addOption(
    new Option('--log-level <level>', 'the least that is logged')
      .choices(['debug', 'info', 'warn', 'error'])
      .default('info')
      .env('OSMOSIS_LOG_LEVEL'),
  )
  .addHelpText(
    'after',
    '\nExamples:\n  osmosis agent\n  osmosis agent --metrics 9818 --log-format text\n\nMetrics and log: docs/metrics.md',
  )
  .action(async (options) => {
    const { DEFAULT_PATHS, agentOptions, runAgent } = await import('../agent/main.ts');
    // What it had opened by then would keep half an agent alive; whoever supervises it starts a whole one.
    await runAgent(DEFAULT_PATHS, agentOptions(options)).catch((thrown) => process.exit(report(thrown)));
  });

agent
  .command('stdio')
  .summary('join standard input and output to the agent (SSH runs this)')
  .action(async () => {
    const { runStdio } = await import('../agent/stdio.ts');
    runStdio('/run/osmosis/agent.sock');
  });

agent
  .command('terminal')
  .summary('show the terminal of a cell in this one (SSH runs this)')
  .argument('<cell>', 'its id')
  .action(async (cell: string) => {
    const { runTerminalClient } = await import('../agent/terminal/client.ts');
    process.exitCode = await runTerminalClient('/run/osmosis', cell);
  });
completeHelp(program);

// A reader that has seen enough (`osmosis ps | head`) is no failure.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE') throw error;
  process.exit(0);
});

try {
  const isAlone = process.argv.length === 2 && process.stdin.isTTY && process.stdout.isTTY;
  await program.parseAsync(isAlone ? [...process.argv, 'tui'] : process.argv);
} catch (thrown) {
  process.exitCode = report(thrown);
}

function report(thrown: unknown): number {
  if (thrown instanceof CommanderError) return thrown.exitCode === 0 ? 0 : EXIT_STATUS.USAGE;
  const error = asOsmosisError(thrown);
  const wantsJson = process.argv.includes('--json');
  if (wantsJson) process.stdout.write(`${JSON.stringify(failureObject(error))}\n`);
  else process.stderr.write(`osmosis: ${error.message}\n`);
  if (error.code === 'INTERNAL' && error.stack !== undefined) process.stderr.write(`${error.stack}\n`);
  return error.exitStatus;
}

function failureObject({ code, message, phase, owner, cleanup }: OsmosisError): object {
  return {
    ok: false,
    code,
    phase: phase ?? null,
    owner: owner ?? 'source',
    message,
    ...(cleanup.length > 0 ? { cleanup } : {}),
  };
}
