/** What all of the command line's help has in common: groups, examples of commands that have none of their own, where to read on. */
import type { Command } from 'commander';

const COMMAND_GROUPS: Readonly<Record<string, readonly string[]>> = {
  'Move:': ['migrate', 'drain', 'suspend', 'resume', 'discard', 'run', 'attach', 'tui'],
  'Look:': ['ps', 'hosts', 'doctor', 'inspect', 'datapath', 'metrics'],
  'Hosts:': ['cordon', 'uncordon', 'keep', 'publish', 'forward', 'relay', 'held', 'trust'],
  'Set up:': ['agent', 'install', 'upgrade', 'uninstall', 'package', 'completion', 'help'],
};

const OPTION_GROUPS: Readonly<Record<string, readonly string[]>> = {
  'Safety:': ['--dry-run', '--yes', '--force', '--replace', '--again'],
  'Connections that can not move along:': ['--relay-legacy', '--drop-legacy', '--legacy', '--drop-gone'],
  'Output:': ['--json', '--status', '--detach', '--log-format', '--log-level'],
  'Keys:': ['--key-file', '--passphrase-file', '--passphrase'],
};

const EXAMPLES: Readonly<Record<string, readonly string[]>> = {
  ps: ['osmosis ps ssh://alpha ssh://beta', "osmosis ps ssh://alpha --json | jq '.hosts[0].cells[].name'"],
  datapath: ['osmosis datapath ssh://peer'],
  'trust list': ['osmosis trust list --on ssh://alpha'],
  'trust pin': ['osmosis trust pin 10.77.2.2 SHA256:… --on ssh://alpha'],
  'trust revoke': ['osmosis trust revoke 10.77.2.2 --on ssh://alpha --dry-run'],
  'trust policy': ['osmosis trust policy --on ssh://alpha', 'osmosis trust policy pinned --on ssh://alpha'],
  'agent stdio': ['osmosis agent stdio'],
  'agent terminal': ['osmosis agent terminal e8681e9fc688eafc6028b49ecd698ae1'],
};

/** Once all commands are there. */
export function completeHelp(program: Command): void {
  program.addHelpText('afterAll', '\nExit statuses and error codes: docs/errors.md');
  program.helpCommand('help [command]', 'all about one command');
  for (const command of program.commands) {
    const group = groupOf(COMMAND_GROUPS, command.name());
    if (group !== undefined) command.helpGroup(group);
    completeOf(command, command.name());
  }
}

function completeOf(command: Command, path: string): void {
  command.configureHelp({ showGlobalOptions: true });
  for (const option of command.options) {
    const group = groupOf(OPTION_GROUPS, option.long ?? '');
    if (group !== undefined) option.helpGroup(group);
  }
  const lines = EXAMPLES[path];
  if (lines !== undefined)
    command.addHelpText('after', `\nExample${lines.length === 1 ? '' : 's'}:\n  ${lines.join('\n  ')}`);
  for (const below of command.commands) completeOf(below, `${path} ${below.name()}`);
}

function groupOf(groups: Readonly<Record<string, readonly string[]>>, name: string): string | undefined {
  return Object.entries(groups).find(([, names]) => names.includes(name))?.[0];
}
