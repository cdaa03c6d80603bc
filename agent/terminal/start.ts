/** Starts a terminal server in a cell, and the program in its terminal. */
import { existsSync } from 'node:fs';
import { homedir } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Size, Terminal } from '../control/terminal-protocol.ts';
import { OsmosisError } from '../error.ts';
import { tmux } from './terminals.ts';
import { sessionArgv, type TerminalFiles } from './tmux.ts';

const SERVER_MS_MAX = 5_000;
const LOOK_EVERY_MS = 5;
/** Of a tmux or terminal that the command was given in. */
const NOT_OURS = new Set(['TMUX', 'TMUX_PANE', 'TERM', 'TERMCAP', 'COLUMNS', 'LINES', 'WINDOWID']);

export type Started = {
  readonly files: TerminalFiles;
  readonly terminal: Terminal & { readonly size: Size };
  readonly cwd: string;
  readonly program: readonly string[];
};

/** What a program at a terminal counts on, where the command's environment says nothing of it. */
export function terminalEnvironment(given: Readonly<Record<string, string>>): Record<string, string> {
  const ours = Object.entries(given).filter(([name]) => !NOT_OURS.has(name));
  return { HOME: homedir(), LANG: 'C.UTF-8', ...Object.fromEntries(ours) };
}

/** Before anything is made. @throws OsmosisError CELL, USAGE */
export async function checkTerminal(cwd: string): Promise<void> {
  await tmux(['tmux', '-V']);
  if (!existsSync(cwd)) throw new OsmosisError('USAGE', `there is no directory ${cwd} on this host`);
}

/** Once the server runs. @throws OsmosisError CELL */
export async function startSession({ files, terminal, cwd, program }: Started): Promise<void> {
  for (let waited = 0; !existsSync(files.socket); waited += LOOK_EVERY_MS) {
    if (waited > SERVER_MS_MAX)
      throw new OsmosisError(
        'CELL',
        'the terminal server did not start; is tmux 3.2 or newer installed here?',
      );
    await sleep(LOOK_EVERY_MS);
  }
  await tmux(sessionArgv(files, terminal, terminal.size, cwd, program));
}
