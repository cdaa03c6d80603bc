/** The command line's tree. Every command loads what it needs only: the agent never loads ssh2 or the display. */
import { Command, Option } from 'commander';
import { VERSION } from '../../agent/version.ts';
import { completeHelp } from '../help.ts';
import { addAgent } from './agent.ts';
import { addConnections } from './connections.ts';
import { addFleet } from './fleet.ts';
import { addInstalling } from './installing.ts';
import { addLooking } from './looking.ts';
import { addMoves } from './moves.ts';
import { addPrograms } from './programs.ts';
import { addShell } from './shell.ts';
import { addStored } from './stored.ts';
import { addTrust } from './trust.ts';

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
