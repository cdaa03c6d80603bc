/** Commands that ask agents what they have. */
import type { Command } from 'commander';
import { A_HOST, ANY_HOST, type Global, JSON_OUTPUT } from './options.ts';

export function addLooking(program: Command): void {
  program
    .command('ps')
    .summary('list cells and their flows')
    .argument('[hosts...]', A_HOST, ['local'])
    .option(...JSON_OUTPUT)
    .action(async (hosts: string[], options) => {
      const { runPs } = await import('../commands/ps.ts');
      await runPs(hosts, { ...program.opts<Global>(), ...options });
    });

  program
    .command('datapath')
    .summary('list the entries of the datapath')
    .argument('[host]', A_HOST, 'local')
    .option(...JSON_OUTPUT)
    .action(async (host: string, options) => {
      const { runDatapath } = await import('../commands/datapath.ts');
      await runDatapath(host, { ...program.opts<Global>(), ...options });
    });

  program
    .command('metrics')
    .summary('what the agent of a host counts, as Prometheus reads it')
    .description(
      "Prints the agent's metrics in Prometheus' text format, over SSH or the agent's socket: for a look, or for the textfile collector " +
        'of node_exporter. osmosis agent --metrics serves the same over HTTP.',
    )
    .argument('[host]', ANY_HOST, 'local')
    .option('--json', 'one JSON object on standard output, with the text in it')
    .addHelpText(
      'after',
      '\nExamples:\n  osmosis metrics ssh://alpha\n  osmosis metrics > osmosis.prom.new && mv osmosis.prom.new /var/lib/prometheus/node-exporter/osmosis.prom',
    )
    .action(async (host: string, options) => {
      const { runMetrics } = await import('../commands/metrics.ts');
      await runMetrics(host, { ...program.opts<Global>(), ...options });
    });
}
