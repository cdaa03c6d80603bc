#!/usr/bin/env node
/** The command line. Every command loads what it needs only: the agent never loads ssh2 or the display. */
import './compile-cache.ts';
import { Command, Option } from 'commander';
import { VERSION } from '../agent/version.ts';
import { addAgent } from './command-line/agent.ts';
import { addConnections } from './command-line/connections.ts';
import { addFleet } from './command-line/fleet.ts';
import { addInstalling } from './command-line/installing.ts';
import { addLooking } from './command-line/looking.ts';
import { addMoves } from './command-line/moves.ts';
import { addPrograms } from './command-line/programs.ts';
import { addShell } from './command-line/shell.ts';
import { addStored } from './command-line/stored.ts';
import { addTrust } from './command-line/trust.ts';
import { report } from './failure.ts';
import { completeHelp } from './help.ts';
import { outliveReader } from './readers.ts';

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

// Help lists the commands of a group in this order.
addMoves(program);
addFleet(program);
addStored(program);
addPrograms(program);
addConnections(program);
addLooking(program);
addTrust(program);
addInstalling(program);
addShell(program);
addAgent(program);
completeHelp(program);

for (const stream of [process.stdout, process.stderr]) outliveReader(stream);

try {
  const isAlone = process.argv.length === 2 && process.stdin.isTTY && process.stdout.isTTY;
  await program.parseAsync(isAlone ? [...process.argv, 'tui'] : process.argv);
} catch (thrown) {
  process.exitCode = report(thrown);
}
