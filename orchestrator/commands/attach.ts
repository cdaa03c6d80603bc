/** `osmosis attach` */
import type { Size } from '../../agent/control/terminal-protocol.ts';
import { OsmosisError } from '../../agent/error.ts';
import { type Attached, attach } from '../terminal/attach.ts';
import { Keyboard } from '../terminal/keyboard.ts';
import { type Found, Places } from '../terminal/places.ts';
import type { Screen } from '../terminal/session.ts';
import { type HostOptions, type Hosts, printJson, withHosts } from './hosts.ts';

export type AttachOptions = HostOptions & { readonly on?: string; readonly json?: boolean };

/** What a lost client would have taken back: scroll region, keypad, mouse, paste, focus, the other screen, attributes, cursor. */
const RESET =
  '\u001b7\u001b[r\u001b8\u001b[?1l\u001b>\u001b[?1000l\u001b[?1002l\u001b[?1003l\u001b[?1006l\u001b[?2004l\u001b[?1004l\u001b[?1049l\u001b[0m\u001b[?25h\r\n';
const USUAL_SIZE: Size = { columns: 80, rows: 24 };

export async function runAttach(cell: string, options: AttachOptions): Promise<void> {
  requireTerminal('osmosis attach');
  await withHosts(options, async (hosts, signal) => {
    const places = new Places(hosts);
    const { on } = options;
    const found =
      on === undefined ? await places.search(cell, signal) : await places.ask(on, cell, 0, signal);
    if (found.state.state === 'unknown')
      throw new OsmosisError(
        'NO_SUCH_TARGET',
        `no cell is called ${cell} on ${found.host}; see osmosis ps ${found.host}`,
      );
    await attachHere(found, places, options, signal);
  });
}

/** The cell that was just started on `host`. */
export async function attachStarted(
  hosts: Hosts,
  host: string,
  cell: string,
  options: AttachOptions,
  signal: AbortSignal,
): Promise<void> {
  const places = new Places(hosts);
  await attachHere(await places.ask(host, cell, 0, signal), places, options, signal);
}

/** @throws OsmosisError USAGE */
export function requireTerminal(what: string): void {
  if (process.stdin.isTTY && process.stdout.isTTY) return;
  throw new OsmosisError(
    'USAGE',
    `${what} needs a terminal for input and output, and there is none here; osmosis run -t --detach starts without`,
  );
}

export function terminalSize(): Size {
  const { columns, rows } = process.stdout;
  return columns > 0 && rows > 0 ? { columns, rows } : USUAL_SIZE;
}

async function attachHere(
  found: Found,
  places: Places,
  { json = false }: AttachOptions,
  signal: AbortSignal,
): Promise<void> {
  const keyboard = new Keyboard(process.stdin, (bell) => void process.stdout.write(bell));
  let said = '';
  const say = (text: string) => {
    if (text !== said) process.stdout.write(`\r\u001b[Kosmosis: ${text}\r\n`);
    said = text;
  };
  keyboard.start();
  try {
    const end = await attach(found, { places, screen: screenHere(), keyboard, say, signal });
    keyboard.stop();
    tell(end, json);
  } finally {
    keyboard.stop();
  }
}

function tell(end: Attached, json: boolean): void {
  if (end.ended === 'exited') process.exitCode = end.status;
  if (json) {
    printJson({ ok: true, ...end, cell: end.name, name: undefined });
    return;
  }
  if (end.ended === 'exited') process.stdout.write(lastLines(end.screen));
  else if (end.ended === 'detached')
    process.stdout.write(
      `osmosis: detached from ${end.name}, which goes on: osmosis attach ${end.name} --on ${end.host}\n`,
    );
  else
    process.stdout.write(
      `osmosis: ${end.name} was suspended into a file on its way from ${end.host}; attach again after osmosis resume\n`,
    );
}

/** Without the empty rest of a screen. */
function lastLines(screen: string): string {
  const text = screen.trimEnd();
  return text === '' ? '' : `${text}\u001b[0m\n`;
}

function screenHere(): Screen {
  return {
    kind: process.env.TERM ?? 'xterm-256color',
    size: terminalSize,
    show: (chunk) => void process.stdout.write(chunk),
    onResize: (listener) => {
      const onResize = () => listener(terminalSize());
      process.stdout.on('resize', onResize);
      return () => process.stdout.off('resize', onResize);
    },
    reset: () => void process.stdout.write(RESET),
  };
}
