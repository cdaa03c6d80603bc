/** Commands about hosts as a whole. */
import type { Command } from 'commander';
import { ANY_HOST, type Global, JSON_OUTPUT } from './options.ts';

export function addFleet(program: Command): void {
  program
    .command('cordon')
    .summary('place no cell on a host any more')
    .argument('<host>', ANY_HOST)
    .option('--reason <text>', 'for whoever wonders')
    .option('--dry-run', 'say what would change; touch nothing', false)
    .option(...JSON_OUTPUT)
    .addHelpText('after', '\nExample:\n  osmosis cordon ssh://alpha --reason "new memory on Monday"')
    .action(async (host: string, options) => {
      const { runCordon } = await import('../commands/cordon.ts');
      await runCordon(host, { ...program.opts<Global>(), ...options });
    });

  program
    .command('uncordon')
    .summary('place cells on a host again')
    .argument('<host>', ANY_HOST)
    .option('--if-reason <text>', 'only where it was cordoned for this')
    .option('--dry-run', 'say what would change; touch nothing', false)
    .option(...JSON_OUTPUT)
    .addHelpText('after', '\nExample:\n  osmosis uncordon ssh://alpha')
    .action(async (host: string, options) => {
      const { runUncordon } = await import('../commands/cordon.ts');
      await runUncordon(host, { ...program.opts<Global>(), ...options });
    });

  program
    .command('hosts')
    .summary('which hosts answer, their versions, load and cells')
    .argument('[hosts...]', 'those of the fleet file, unless some are named')
    .option('--select <expr>', 'only these of the fleet file: zone=a,name!=web-*')
    .option('--schema', 'print the JSON schema of the fleet file', false)
    .option(...JSON_OUTPUT)
    .addHelpText('after', '\nExamples:\n  osmosis hosts\n  osmosis --fleet fleet.yaml hosts --select zone=a')
    .action(async (hosts: string[], options) => {
      const { runHosts } = await import('../commands/fleet.ts');
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
    .option(...JSON_OUTPUT)
    .addHelpText(
      'after',
      '\nExit status: 0, or 18 where something has to be mended (FAIL).\nExamples:\n  osmosis doctor\n  osmosis doctor ssh://alpha ssh://beta ssh://peer',
    )
    .action(async (hosts: string[], options) => {
      const { runDoctor } = await import('../commands/doctor.ts');
      await runDoctor(hosts, { ...program.opts<Global>(), ...options });
    });
}
