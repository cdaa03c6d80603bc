import { describe, expect, test } from 'vitest';
import { LET_GO, parseStatus, serverArgv, sessionArgv, terminalFiles, typeArgv } from './tmux.ts';

const FILES = terminalFiles('/run/osmosis', 'ab'.repeat(16));
const SIZE = { columns: 100, rows: 30 };
const session = (key: string, cwd = '/srv', ...program: string[]) =>
  sessionArgv(FILES, { escape: key }, SIZE, cwd, program);

describe('a session', () => {
  test('runs the program itself, with no shell between', () => {
    const argv = session('C-\\', '/srv', 'vim', '-n', 'a file');
    expect(argv.slice(0, 6)).toEqual(['tmux', '-u', '-f', '/dev/null', '-S', FILES.socket]);
    expect(argv.slice(-3)).toEqual(['vim', '-n', 'a file']);
    expect(argv.join(' ')).toContain(
      'new-session -d -s main -x 100 -y 30 -c /srv -- env -u TMUX -u TMUX_PANE',
    );
    expect(serverArgv(FILES.socket)).toEqual(['tmux', '-D', '-f', '/dev/null', '-S', FILES.socket]);
  });

  test('no word of the program ends a command of tmux, or is taken for a format', () => {
    const argv = session('none', '/a#{b}', 'sh', '-c', 'exit 1;', ';');
    expect(argv.slice(-4)).toEqual(['sh', '-c', 'exit 1\\;', '\\;']);
    expect(argv).toContain('/a##{b}');
  });

  test('passes every key on but the one that detaches, and what takes a client off', () => {
    const keys = (argv: string[]) => argv.join(' ').match(/(?<!un)bind [^;]*|-g prefix [^ ]*/g);
    expect(keys(session('C-]'))).toEqual([
      '-g prefix C-]',
      'bind -T prefix d detach-client ',
      'bind -T prefix C-] send-prefix ',
      'bind -T root User0 detach-client ',
      'bind -T prefix User0 detach-client ',
    ]);
    expect(keys(session('none'))).toEqual([
      '-g prefix None',
      'bind -T root User0 detach-client ',
      'bind -T prefix User0 detach-client ',
    ]);
    const argv = session('none');
    expect(argv[argv.indexOf('user-keys[0]') + 1]).toBe(LET_GO);
  });
});

test('keys are typed byte by byte', () => {
  expect(typeArgv('/s', Buffer.from('é\u001b[A')).slice(-6)).toEqual(['-H', 'c3', 'a9', '1b', '5b', '41']);
});

test.for([
  ['3 \n', 3],
  ['0 \n', 0],
  [' 15\n', 143],
  ['', undefined],
  ['x\n', undefined],
] as const)('status %j is %j', ([text, status]) => {
  expect(parseStatus(text)).toBe(status);
});
