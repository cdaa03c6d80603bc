import { Command, Option } from 'commander';
import { describe, expect, test } from 'vitest';
import { wantedAt, wordsOf } from './candidates.ts';
import { sshHosts } from './sources.ts';

const program = new Command('osmosis').option('--fleet <file>', 'which hosts');
program
  .command('migrate')
  .summary('move it')
  .argument('<target>')
  .requiredOption('--from <host>', 'from')
  .option('--forward-new [lease]', 'follow')
  .addOption(new Option('--legacy <what>').choices(['relay', 'drop']))
  .option('--json', 'json');
program.command('drain').argument('[host]').option('--to <hosts>', 'to').option('-y, --yes', 'yes');
program.command('trust').command('pin').argument('<host>').argument('<identity>');
program.command('hosts').argument('[hosts...]');
program.command('resume').argument('<file>');
program.command('complete', { hidden: true });

const values = (...words: string[]) => wantedAt(program, words).candidates.map(({ value }) => value);
const kind = (...words: string[]) => wantedAt(program, words).kind;

describe('what may stand at the cursor', () => {
  test('commands, but for those that are hidden', () => {
    expect(values('')).toEqual(['migrate', 'drain', 'trust', 'hosts', 'resume', 'help']);
    expect(values('m')).toEqual(['migrate']);
    expect(values('--fleet', 'f.yaml', 'm')).toEqual(['migrate']);
    expect(values('trust', '')).toContain('pin');
    expect(values('migrate', 'm')).toEqual([]);
  });

  test('options of the command and of all commands', () => {
    expect(values('migrate', '--f')).toEqual(['--fleet', '--from', '--forward-new']);
    expect(values('drain', '4', '-')).toContain('--yes');
  });

  test('choices, behind a space and behind =', () => {
    expect(values('migrate', '--legacy', '')).toEqual(['relay', 'drop']);
    expect(values('migrate', '--legacy', 'r')).toEqual(['relay']);
    expect(values('migrate', '--legacy=d')).toEqual(['--legacy=drop']);
  });

  test('hosts and cells, by what the option or argument takes', () => {
    expect(kind('migrate', '--from', '')).toBe('host');
    expect(kind('migrate', '')).toBe('cell');
    expect(kind('migrate', '--json', '')).toBe('cell');
    expect(kind('migrate', '--from', 'alpha', '')).toBe('cell');
    expect(kind('migrate', '4711', '')).toBeUndefined();
    expect(kind('trust', 'pin', '')).toBe('host');
    expect(kind('trust', 'pin', 'alpha', '')).toBeUndefined();
    expect(kind('hosts', 'alpha', 'beta', '')).toBe('host');
    expect(kind('resume', '')).toBeUndefined();
    expect(wantedAt(program, ['drain', '--to', 'alpha,be'])).toMatchObject({
      kind: 'host',
      prefix: 'alpha,',
    });
    expect(wantedAt(program, ['migrate', '--from=a'])).toMatchObject({ kind: 'host', prefix: '--from=' });
  });

  test('an option that may have a value, or not', () => {
    expect(values('migrate', '--forward-new', '--j')).toEqual(['--json']);
    expect(kind('migrate', '--forward-new', '1h', '')).toBe('cell');
  });

  test('nothing behind --: that is another program', () => {
    expect(wantedAt(program, ['migrate', '--', ''])).toEqual({ candidates: [], prefix: '' });
  });
});

test('a line is read as a shell would, and nothing in it is expanded', () => {
  expect(wordsOf('osmosis migrate 4 ')).toEqual(['osmosis', 'migrate', '4', '']);
  expect(wordsOf(`osmosis "a b" c\\ d 'e\\f' $(touch /tmp/x) "open q`)).toEqual([
    'osmosis',
    'a b',
    'c d',
    'e\\f',
    '$(touch',
    '/tmp/x)',
    'open q',
  ]);
});

test('hosts of ssh_config, without patterns', () => {
  expect(sshHosts('Host alpha beta\n  HostName x\nhost *.example !no\n\tHost alpha gamma-1\n')).toEqual([
    'alpha',
    'beta',
    'gamma-1',
  ]);
});
