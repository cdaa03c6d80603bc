/**
 * The terminal of a cell is a tmux server inside of it, which has both the program's terminal and what is on its screen. It is
 * the root of the cell's tree, so that all of that moves as it is. This is how it is told what to be; pure.
 */
import type { Size, Terminal } from '../control/terminal-protocol.ts';

/** Of a cell: the server's socket, and what is left of it when its program has ended. */
export type TerminalFiles = { readonly socket: string; readonly status: string; readonly screen: string };

export function terminalDirectory(run: string): string {
  return `${run}/terminals`;
}

export function terminalFiles(run: string, cell: string): TerminalFiles {
  const base = `${terminalDirectory(run)}/${cell}`;
  return { socket: `${base}.sock`, status: `${base}.status`, screen: `${base}.screen` };
}

/**
 * What a client's end types last when its cell is about to leave: the server takes it off, having taken every key before this.
 * No terminal sends it, and no program that got it by mistake would know it.
 */
export const LET_GO = '\u001b[57399;77z';
/** A lone Escape is a key after that: what comes later begins anew. */
export const ESCAPE_MS = 20;
const SESSION = 'main';
/** Where its screen is, as tmux names it. */
const PANE = `${SESSION}:`;
/** Lines that scrolled away before the program ended, and are still shown then. */
const LAST_LINES = 200;
/** What tmux sets for what runs in it; a program that starts a tmux of its own need not know. */
const HIDDEN = ['TMUX', 'TMUX_PANE', 'TERM_PROGRAM', 'TERM_PROGRAM_VERSION'];

/** A command line of tmux for the server at `socket`. */
function tmuxArgv(socket: string, ...command: readonly string[]): string[] {
  return ['tmux', '-u', '-f', '/dev/null', '-S', socket, ...command];
}

/** The server itself, in the foreground. */
export function serverArgv(socket: string): string[] {
  return ['tmux', '-D', '-f', '/dev/null', '-S', socket];
}

/** Commands of tmux(1), one after the other, as arguments of one call. */
function sequence(commands: readonly (readonly string[])[]): string[] {
  return commands.flatMap((command, index) => (index === 0 ? command : [';', ...command]));
}

/** An argument that ends so would end its command. */
function whole(word: string): string {
  return word.endsWith(';') ? `${word.slice(0, -1)}\\;` : word;
}

/** A word of a POSIX shell, in quotes. */
function quoted(word: string): string {
  return `'${word.replaceAll("'", "'\\''")}'`;
}

/** What the server does when its program has ended: the status and the last of the screen are written down, then it goes. */
function endHook({ socket, status, screen }: TerminalFiles): string {
  const capture = tmuxArgv(socket, 'capture-pane', '-p', '-e', '-S', `-${LAST_LINES}`, '-t', PANE);
  const line = [
    `umask 077; ${capture.map(quoted).join(' ')} > ${quoted(screen)}`,
    `echo "#{pane_dead_status} #{pane_dead_signal}" > ${quoted(`${status}.new`)}`,
    `mv ${quoted(`${status}.new`)} ${quoted(status)}`,
  ].join('; ');
  return `run-shell "${line.replaceAll('\\', '\\\\').replaceAll('"', '\\"')}" ; kill-server`;
}

/** Makes the server invisible to whoever uses it, and starts the program in it. */
export function sessionArgv(
  files: TerminalFiles,
  { escape: key }: Terminal,
  { columns, rows }: Size,
  cwd: string,
  program: readonly string[],
): string[] {
  const prefix = key === 'none' ? 'None' : key;
  const keys =
    key === 'none'
      ? []
      : [
          ['bind', '-T', 'prefix', 'd', 'detach-client'],
          ['bind', '-T', 'prefix', key, 'send-prefix'],
        ];
  return tmuxArgv(
    files.socket,
    ...sequence([
      ['set', '-g', 'status', 'off'],
      ['set', '-g', 'prefix', prefix],
      ['set', '-g', 'prefix2', 'None'],
      ['unbind', '-a', '-T', 'root'],
      ['unbind', '-a', '-T', 'prefix'],
      ...keys,
      ['set', '-s', 'user-keys[0]', LET_GO],
      ['bind', '-T', 'root', 'User0', 'detach-client'],
      ['bind', '-T', 'prefix', 'User0', 'detach-client'],
      ['set', '-s', 'escape-time', String(ESCAPE_MS)],
      // Or what follows other keys closely would be taken for text, LET_GO too.
      ['set', '-g', 'assume-paste-time', '0'],
      ['set', '-s', 'focus-events', 'on'],
      ['set', '-s', 'set-clipboard', 'on'],
      ['set', '-g', 'update-environment', ''],
      ['set', '-g', 'remain-on-exit', 'on'],
      ['set', '-gq', 'remain-on-exit-format', ''],
      ['set-hook', '-g', 'pane-died', endHook(files)],
      [
        'new-session',
        '-d',
        '-s',
        SESSION,
        '-x',
        String(columns),
        '-y',
        String(rows),
        '-c',
        whole(cwd.replaceAll('#', '##')),
        '--',
      ],
    ]),
    'env',
    ...HIDDEN.flatMap((name) => ['-u', name]),
    ...program.map(whole),
  );
}

export function attachArgv(socket: string): string[] {
  return tmuxArgv(socket, 'attach-session', '-t', SESSION);
}

export function detachArgv(socket: string): string[] {
  return tmuxArgv(socket, 'detach-client', '-s', SESSION);
}

/** Types `keys` as they are. */
export function typeArgv(socket: string, keys: Uint8Array): string[] {
  const bytes = [...keys].map((byte) => byte.toString(16).padStart(2, '0'));
  return tmuxArgv(socket, 'send-keys', '-t', PANE, '-H', ...bytes);
}

/** `status signal`, one of them empty, as a shell has it; undefined where it is neither. */
export function parseStatus(text: string): number | undefined {
  const [status = '', signal = ''] = text.replace('\n', '').split(' ');
  if (/^\d+$/.test(signal)) return 128 + Number(signal);
  return /^\d+$/.test(status) ? Number(status) : undefined;
}
