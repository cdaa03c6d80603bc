/** `osmosis agent …` */
import { type Command, Option } from 'commander';
import { report } from '../failure.ts';

export function addAgent(program: Command): void {
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
      const { DEFAULT_PATHS, agentOptions, runAgent } = await import('../../agent/main.ts');
      // What it had opened by then would keep half an agent alive; whoever supervises it starts a whole one.
      await runAgent(DEFAULT_PATHS, agentOptions(options)).catch((thrown) => process.exit(report(thrown)));
    });

  agent
    .command('stdio')
    .summary('join standard input and output to the agent (SSH runs this)')
    .action(async () => {
      const { runStdio } = await import('../../agent/stdio.ts');
      runStdio('/run/osmosis/agent.sock');
    });

  agent
    .command('terminal')
    .summary('show the terminal of a cell in this one (SSH runs this)')
    .argument('<cell>', 'its id')
    .action(async (cell: string) => {
      const { runTerminalClient } = await import('../../agent/terminal/client.ts');
      process.exitCode = await runTerminalClient('/run/osmosis', cell);
    });
}
