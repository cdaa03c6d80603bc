/** `osmosis trust …` */
import type { Command } from 'commander';
import { A_HOST, type Global, JSON_OUTPUT } from './options.ts';

const onHost = (command: Command) =>
  command.option('--on <host>', `whose list: ${A_HOST}`, 'local').option(...JSON_OUTPUT);
const dryRun = (command: Command) =>
  command.option('--dry-run', 'say what would change; touch nothing', false);
const REPLACE = [
  '--replace',
  'also where another identity is pinned, or where this one was revoked',
] as const;

export function addTrust(program: Command): void {
  const trust = program
    .command('trust')
    .summary('which agents a host believes: list, pin, revoke, import, policy')
    .description(
      'Every agent has an identity (Ed25519). A host knows others by address: those that came first, or those that were pinned.',
    );

  onHost(trust.command('list').summary('its own identity, whom it knows, and whom it has refused')).action(
    async (options) => {
      const { runTrustList } = await import('../commands/trust.ts');
      await runTrustList({ ...program.opts<Global>(), ...options });
    },
  );

  dryRun(onHost(trust.command('pin').summary('believe this identity, and no other, at this address')))
    .argument('<host>', 'address, or a name of it')
    .argument('<identity>', "SHA256:… or 'ssh-ed25519 AAAA…', as trust list shows it there")
    .option(...REPLACE, false)
    .action(async (host: string, identity: string, options) => {
      const { runTrustPin } = await import('../commands/trust.ts');
      await runTrustPin(host, identity, { ...program.opts<Global>(), ...options });
    });

  dryRun(onHost(trust.command('revoke').summary('refuse an identity everywhere, until it is pinned again')))
    .argument('<identity>', 'SHA256:…, or the address or name at which it is known')
    .action(async (what: string, options) => {
      const { runTrustRevoke } = await import('../commands/trust.ts');
      await runTrustRevoke(what, { ...program.opts<Global>(), ...options });
    });

  dryRun(
    onHost(trust.command('policy').summary('what it makes of strangers; without a policy: which it has')),
  )
    .argument('[policy]', 'first-use or pinned')
    .action(async (policy: string | undefined, options) => {
      const { runTrustPolicy } = await import('../commands/trust.ts');
      await runTrustPolicy(policy, { ...program.opts<Global>(), ...options });
    });

  dryRun(trust.command('import'))
    .summary('let hosts that SSH trusts pin one another')
    .description(
      'Asks the agent of each host, over SSH, for its identity and addresses, and pins them at all the others.',
    )
    .argument('<hosts...>', A_HOST)
    .option(...REPLACE, false)
    .option(...JSON_OUTPUT)
    .addHelpText('after', '\nExample:\n  osmosis trust import ssh://alpha ssh://beta ssh://peer')
    .action(async (hosts: string[], options) => {
      const { runTrustImport } = await import('../commands/trust.ts');
      await runTrustImport(hosts, { ...program.opts<Global>(), ...options });
    });
}
