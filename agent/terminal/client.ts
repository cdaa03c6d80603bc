/**
 * `osmosis agent terminal CELL`: joins the terminal that it is started in to that of a cell of this host. SSH runs it. It says
 * nothing by itself: what it has to say would be on the screen.
 */
import { spawn, spawnSync } from 'node:child_process';
import { attachArgv, terminalFiles } from './tmux.ts';

/** What nearly every terminal is like, where this host does not know the one that it is. */
const USUAL = 'xterm-256color';
const INFOCMP_MS_MAX = 5_000;
/** sysexits(3) */
const EX_USAGE = 64;
const FAILED = 1;
const NEVER = new AbortController().signal;
const CELL_ID = /^[0-9a-f]{32}$/;

/** `signal`: it lets go. @returns the exit status: 0 where somebody has let go of it. */
export async function runTerminalClient(
  run: string,
  cell: string,
  signal: AbortSignal = NEVER,
): Promise<number> {
  if (!CELL_ID.test(cell) || !process.stdin.isTTY) return EX_USAGE;
  const [file = '', ...args] = attachArgv(terminalFiles(run, cell).socket);
  const child = spawn(file, args, {
    // It draws where it reads; what it writes elsewhere are last words.
    stdio: ['inherit', 'ignore', 'ignore'],
    env: { ...withoutTmux(process.env), TERM: knownTerminal(process.env.TERM) },
  });
  const letGo = () => void child.kill('SIGTERM');
  signal.addEventListener('abort', letGo, { once: true });
  if (signal.aborted) letGo();
  // It is closed then as well, with a status below 0.
  child.on('error', () => {});
  const { promise, resolve } = Promise.withResolvers<number | null>();
  child.once('close', resolve);
  const code = (await promise) ?? FAILED;
  return code < 0 ? FAILED : code;
}

function withoutTmux({ TMUX: _, TMUX_PANE: __, ...rest }: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  return rest;
}

function knownTerminal(name: string | undefined): string {
  if (name === undefined) return USUAL;
  const { status, error } = spawnSync('infocmp', [name], { stdio: 'ignore', timeout: INFOCMP_MS_MAX });
  return error === undefined && status !== 0 ? USUAL : name;
}
