import { describe, expect, it } from 'vitest';
import { installedText } from '../commands/install.ts';
import type { Installed } from './install.ts';
import { parseState, saidBy } from './steps.ts';

describe('what a host says of its state', () => {
  it('is nothing where nothing is installed', () => {
    expect(parseState(saidBy('current \n'))).toEqual({
      current: '',
      releases: [],
      foreign: [],
      agents: [],
      systemd: false,
      identity: false,
      cells: 0,
      migrations: 0,
      peers: 0,
    });
  });

  it('is read line by line', () => {
    const lines = [
      'current 1.2.3-abc',
      'release 1.2.3-abc',
      'release 1.2.2-def',
      'foreign /usr/bin/osmosis',
      'agent 4711 1.2.2-def',
      'systemd yes',
      'identity yes',
      'cells /run/osmosis/cells/1.cbor',
      'migrations /run/osmosis/migrations/2.cbor',
      'peers /run/osmosis/peers/3.cbor',
      'peers /run/osmosis/peers/flows/4.cbor',
    ];
    expect(parseState(saidBy(lines.join('\n')))).toEqual({
      current: '1.2.3-abc',
      releases: ['1.2.3-abc', '1.2.2-def'],
      foreign: ['/usr/bin/osmosis'],
      agents: [{ pid: 4711, release: '1.2.2-def' }],
      systemd: true,
      identity: true,
      cells: 1,
      migrations: 1,
      peers: 2,
    });
  });
});

describe('what an operator is told', () => {
  const DONE: Installed = {
    version: '1.2.3',
    release: '1.2.3-abc',
    changed: true,
    packages: [],
    systemd: true,
    agent: 'answers',
  };
  const OPTIONS = { apt: false, supervised: false, dryRun: false };
  const lines = (installed: Installed, options = OPTIONS) =>
    installedText('a', installed, options).split('\n');

  it.each<[string, Installed, typeof OPTIONS, RegExp]>([
    ['installed', DONE, OPTIONS, /^a: Osmosis 1\.2\.3 \(1\.2\.3-abc\) is installed$/m],
    ['what is optional', DONE, OPTIONS, /systemctl enable --now osmosis-drain/],
    ['there already', { ...DONE, changed: false }, OPTIONS, /is there already/],
    ['in place of', { ...DONE, before: '1.2.2-def' }, OPTIONS, /is installed, in place of 1\.2\.2-def/],
    ['would be', DONE, { ...OPTIONS, dryRun: true }, /would be installed\n.*would be started/],
    [
      'who starts it',
      { ...DONE, systemd: false, agent: 'to be started' },
      OPTIONS,
      /osmosis agent .*--supervised/,
    ],
    ['packages', { ...DONE, packages: ['criu'] }, { ...OPTIONS, apt: true }, /packages installed: criu/],
  ])('says: %s', (_, installed, options, expected) => {
    expect(lines(installed, options).join('\n')).toMatch(expected);
  });
});
