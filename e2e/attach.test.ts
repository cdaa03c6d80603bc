/**
 * Terminals that move: full-screen programs that `osmosis run -t` has started, shown by `osmosis attach` in a real terminal
 * (tmux on a host of the lab) while their cells go from host to host.
 */
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { execOn, type LabHost } from '../fixtures/lab/hosts.ts';
import { endEverywhere } from '../fixtures/load/processes.ts';
import { migrateArgs, move, osmosis, statusOf } from './cli.ts';
import { replaceProgram } from './inject.ts';
import { leavesNothing } from './traces.ts';

const SEEN_MS_MAX = 40_000;
const FILE = '/srv/attach-test.txt';
const STOP = '/tmp/attach-test-stop';
const HOSTS = ['alpha', 'beta', 'gamma'] as const;
/** More keys than are typed in any move. */
const WORDS_MAX = 3_000;
/** Of what was typed, the last of it has to be on the screen, where lines are broken. */
const SHOWN = 300;
const VIM = ['vim.tiny', '-u', 'NONE', '-i', 'NONE', '-n', FILE];
const LESS = ['less', FILE];
const LINES = Array.from({ length: 200 }, (_, index) => `line ${index + 1}`);

/** A terminal on a host, with a shell in it. */
class Terminal {
  readonly #on: LabHost;
  readonly #name: string;

  constructor(on: LabHost, name = 'attach-test') {
    this.#on = on;
    this.#name = name;
  }

  async tmux(...args: string[]): Promise<string> {
    return (await execOn(this.#on, ['tmux', '-L', this.#name, ...args])).stdout;
  }

  async open(columns = 80, rows = 24): Promise<void> {
    await this.tmux('new-session', '-d', '-x', String(columns), '-y', String(rows), 'sh');
  }

  /** Opens, and shows a pager that is at its beginning. */
  async attach(cell: string, on: string): Promise<void> {
    await this.open();
    await this.command('osmosis', 'attach', cell, '--on', on);
    await this.sees(/^line 1\n/);
  }

  async close(): Promise<void> {
    await execOn(this.#on, ['tmux', '-L', this.#name, 'kill-server'], { reject: false });
  }

  async keys(...names: string[]): Promise<void> {
    await this.tmux('send-keys', ...names);
  }

  /** Runs a command, and says its status after it. */
  async command(...words: string[]): Promise<void> {
    await this.keys(
      '-l',
      `${words.join(' ')}; echo "status $?, $(stty -a | tail -n +2 | md5sum | cut -c1-8)"`,
    );
    await this.keys('Enter');
  }

  screen(): Promise<string> {
    return this.tmux('capture-pane', '-p');
  }

  async sees(text: string | RegExp): Promise<void> {
    await expect.poll(() => this.screen(), { timeout: SEEN_MS_MAX }).toMatch(text);
  }

  async isAlternate(): Promise<boolean> {
    return (await this.tmux('display-message', '-p', '#{alternate_on}')).trim() === '1';
  }

  /** Types `1 2 3 …` until it is told to stop. @returns what it has typed */
  async typeUntilStopped(): Promise<string> {
    const type = `tmux -L ${this.#name} send-keys -l "$i "; i=$((i + 1)); sleep 0.02`;
    const loop = `rm -f ${STOP}; i=1; until [ -e ${STOP} ] || [ $i -gt ${WORDS_MAX} ]; do ${type}; done; rm -f ${STOP}; echo $i`;
    const { stdout } = await execOn(this.#on, ['sh', '-c', loop]);
    return Array.from({ length: Number(stdout) - 1 }, (_, index) => `${index + 1} `).join('');
  }

  stopTyping(): Promise<unknown> {
    return execOn(this.#on, ['touch', STOP]);
  }
}

type Status = { cells: { name: string; pid: number; command: string }[] };
const cellsOn = async (host: LabHost) => (await statusOf<Status>(host)).cells.map(({ name }) => name);
const start = (name: string, ...program: string[]) =>
  osmosis(['run', '-t', '-d', '--on', 'ssh://alpha', '--name', name, '--json', '--', ...program]);
/** Without the modes that a shell's line editor has set when it is asked. */
const lastStatus = (text: string) => /status (\d+), (\w+)\n/.exec(text);

describe('osmosis attach', () => {
  const terminal = new Terminal('gamma');
  leavesNothing();
  beforeAll(async () => {
    for (const host of HOSTS) {
      await execOn(host, ['tee', FILE], { input: `${LINES.join('\n')}\n` });
      // Or the editor finds that it was changed since.
      await execOn(host, ['touch', '--date', '@1700000000', FILE]);
    }
  });
  afterEach(() => terminal.close());
  afterAll(async () => {
    await endEverywhere('^(vim.tiny|less|tmux -D)');
    for (const host of HOSTS) await execOn(host, ['rm', '-f', FILE]);
  });

  it('an editor is typed into before, during and after two moves: the same screen, every key once', async () => {
    await terminal.open();
    await terminal.command('true');
    await terminal.sees(/status 0, /);
    const before = lastStatus(await terminal.screen());
    await terminal.keys('-l', 'clear');
    await terminal.keys('Enter');
    await terminal.command('osmosis', 'run', '-t', '--on', 'ssh://alpha', '--name', 'editor', '--', ...VIM);
    await terminal.sees(/^line 1\nline 2\n/);
    expect(await terminal.isAlternate()).toBe(true);
    expect(await statusOf<Status>('alpha')).toMatchObject({
      cells: [{ name: 'editor', command: expect.stringMatching(/^vim\.tiny /) }],
    });
    await terminal.keys('O');
    const typing = terminal.typeUntilStopped();
    await terminal.sees(/^1 2 3 /);
    await move('editor', 'alpha', 'beta');
    await move('editor', 'beta', 'gamma');
    await terminal.stopTyping();
    const typed = await typing;
    const shown = async () => (await terminal.screen()).replaceAll(/\s/g, '');
    await expect.poll(shown, { timeout: SEEN_MS_MAX }).toContain(typed.replaceAll(' ', '').slice(-SHOWN));
    expect(await cellsOn('gamma')).toEqual(['editor']);

    await terminal.tmux('resize-window', '-x', '100', '-y', '30');
    await terminal.keys('Escape');
    await terminal.keys('-l', ':set columns? lines?');
    await terminal.keys('Enter');
    await terminal.sees(/columns=100[\s\S]*lines=30/);
    await terminal.keys('Enter');
    await terminal.keys('-l', ':wq');
    await terminal.keys('Enter');
    await terminal.sees(/status 0, /);
    expect(await terminal.isAlternate()).toBe(false);
    // The terminal is as it was, and says where the cell went.
    expect(lastStatus(await terminal.screen())?.[2]).toBe(before?.[2]);
    expect(await terminal.screen()).toMatch(
      /editor has moved from ssh:\/\/alpha to ssh:\/\/beta[\s\S]*to ssh:\/\/gamma/,
    );
    const { stdout } = await execOn('gamma', ['head', '-n', '2', FILE]);
    expect(stdout).toBe(`${typed}\nline 1`);
    expect((await execOn('alpha', ['head', '-n', '1', FILE])).stdout).toBe('line 1');
  });

  it('a move that is undone: it goes on at the source, and what was typed meanwhile arrives', async () => {
    expect(await start('pager', ...LESS)).toMatchObject({ exitCode: 0, object: { ok: true, cell: 'pager' } });
    const local = new Terminal('alpha');
    try {
      await Promise.all([terminal.attach('pager', 'ssh://alpha'), local.attach('pager', 'local')]);
      {
        await using _broken = await replaceProgram(
          'beta',
          'criu',
          'case "$1" in restore) sleep 1; exit 1;; esac; exec "$REAL" "$@"',
        );
        const failing = osmosis(migrateArgs('pager', 'alpha', 'beta'));
        await terminal.sees(/pager is leaving ssh:\/\/alpha/);
        await terminal.keys('-l', 'jjj');
        await local.sees(/pager is leaving local/);
        await local.keys('-l', 'jj');
        expect((await failing).object).toMatchObject({
          ok: false,
          code: 'RESTORE_FAILED',
          owner: 'source',
        });
      }
      await terminal.sees(/^line 6\nline 7\n/);
      await local.sees(/^line 6\nline 7\n/);
      await terminal.keys('q');
      await terminal.sees(/status 0, /);
      await local.sees(/status 0, /);
    } finally {
      await local.close();
    }
    await expect.poll(() => cellsOn('alpha'), { timeout: SEEN_MS_MAX }).toEqual([]);
  });

  it('two are attached at once; one leaves by C-\\ d, the other one follows the move', async () => {
    await start('shared', ...LESS);
    const other = new Terminal('alpha');
    try {
      await Promise.all([terminal.attach('shared', 'ssh://alpha'), other.attach('shared', 'local')]);
      await terminal.keys('-l', 'jj');
      await other.sees(/^line 3\n/);
      await terminal.keys('C-\\', 'd');
      await terminal.sees(/detached from shared, which goes on: [\s\S]*\nstatus 0, /);
      await move('shared', 'alpha', 'beta');
      await other.sees(/^line 3\n/);
      await other.keys('-l', 'jj');
      await other.sees(/^line 5\n/);
      expect(await cellsOn('beta')).toEqual(['shared']);
      // Asked where it was, its old host knows where it is.
      await terminal.command('clear;', 'osmosis', 'attach', 'shared', '--on', 'ssh://alpha');
      await terminal.sees(/^line 5\n/);
      await terminal.keys('q');
      await terminal.sees(/status 0, /);
      await other.sees(/status 0, /);
    } finally {
      await other.close();
    }
  });

  it('shows what a program has said, and ends with its status', async () => {
    await terminal.open();
    await terminal.command(
      'osmosis',
      'run',
      '-t',
      '--on',
      'ssh://alpha',
      '--',
      'sh',
      '-c',
      "'echo said; exit 7'",
    );
    await terminal.sees(/\nsaid\nstatus 7, /);
    await terminal.command(
      'osmosis',
      'run',
      '-t',
      '--on',
      'ssh://alpha',
      '--',
      'sh',
      '-c',
      "'kill -TERM $$'",
    );
    await terminal.sees(/status 143, /);
  });

  it('refuses what it can not show', async () => {
    const [none] = await Promise.all([
      osmosis(['run', '--on', 'ssh://alpha', '--name', 'bare', '--', 'sleep', '600']),
      terminal.open(),
    ]);
    expect(none.exitCode).toBe(0);
    await terminal.command('osmosis', 'attach', 'bare', '--on', 'ssh://alpha');
    await terminal.sees(/the cell bare has no terminal: [\s\S]*status 49, /);
    await terminal.command('osmosis', 'attach', 'nobody', '--on', 'ssh://alpha');
    await terminal.sees(/no cell is called nobody on ssh:\/\/alpha[\s\S]*status 21, /);
    expect(await osmosis(['attach', 'bare', '--on', 'ssh://alpha', '--json'])).toMatchObject({
      exitCode: 64,
      object: { ok: false, code: 'USAGE', message: expect.stringContaining('needs a terminal') },
    });
    await endEverywhere('^sleep 600');
  });
});
