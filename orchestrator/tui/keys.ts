/** Which keys do what, in which mode: the foot of the screen and its help are made of this, and update.ts obeys it. */
import type { Mode } from './model.ts';

/** As ink tells them, by name. */
export type KeyName =
  | 'up'
  | 'down'
  | 'pageUp'
  | 'pageDown'
  | 'enter'
  | 'escape'
  | 'backspace'
  | 'interrupt'
  | { readonly text: string };

type Shown = { readonly keys: string; readonly what: string };

const MOVE: Shown = { keys: '↑↓', what: 'select' };
const BACK: Shown = { keys: 'esc', what: 'back' };
const LIST: readonly Shown[] = [
  MOVE,
  { keys: 'm', what: 'move' },
  { keys: 's', what: 'suspend' },
  { keys: 'r', what: 'resume' },
  { keys: 'd', what: 'drain' },
  { keys: 'h', what: 'history' },
  { keys: '?', what: 'help' },
  { keys: 'q', what: 'quit' },
];

export function shownKeys(mode: Mode, busy: { readonly over: boolean }): readonly Shown[] {
  switch (mode.mode) {
    case 'list':
      return LIST;
    case 'help':
      return [BACK];
    case 'history':
      return [{ keys: '↑↓', what: 'scroll' }, BACK];
    case 'choose':
      return [MOVE, { keys: 'enter', what: 'see the plan' }, BACK];
    case 'plan':
      return [
        { keys: '↑↓', what: 'scroll' },
        ...(mode.ok ? [{ keys: 'y', what: mode.what === 'move' ? 'move it' : 'drain it' }] : []),
        BACK,
      ];
    case 'ask':
      return [{ keys: 'enter', what: mode.what }, BACK];
    case 'work':
    case 'drain':
      return busy.over
        ? [BACK]
        : [
            { keys: 'ctrl-c', what: mode.mode === 'drain' ? 'begin no further move' : 'undo, before commit' },
            { keys: 'esc', what: 'back, it goes on' },
          ];
  }
}

/** The whole of it, in words. */
export const HELP: readonly string[] = [
  'Hosts with their cells: those of osmosis run, of osmosis keep, and those',
  'that have moved in. Below: the connections of the selected cell, by peer,',
  'with what they carry just now (TCP; UDP is not counted by the kernel).',
  '',
  '↑ ↓ (k j)   select a host or a cell; page up and page down as well',
  'm, enter    move the selected cell: pick a destination, see the plan and',
  '            its checks, confirm, watch it',
  's           suspend the selected cell into a file here; its peers wait',
  'r           resume a suspended cell on the selected host',
  'd           drain the selected host: see where its cells would go, confirm',
  'u           uncordon the selected host: it takes cells again',
  'w           what is under way, or was last',
  'h           what was done here',
  'ctrl-c      undo what is under way, as long as it is not decided; else quit',
  'q           quit; what is under way must be over, or undone',
];
