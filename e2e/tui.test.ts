/** The interactive display in a real terminal (tmux on a host of the lab): its screens as text, and what its keys do. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { execOn, LAB_HOSTS } from '../fixtures/lab/hosts.ts';
import { type StreamClient, startStreamClient, untilListening } from '../fixtures/load/control.ts';
import { endEverywhere } from '../fixtures/load/processes.ts';
import { osmosis, statusOf } from './cli.ts';
import { leavesNothing } from './traces.ts';

const PORT = 7350;
const CONNECTIONS = 5;
/** And the one by which the client controls the server. */
const FLOWS = CONNECTIONS + 1;
const SEEN_MS_MAX = 40_000;
/** Where the display runs: neither source nor destination. */
const ON = 'gamma';
const FILE = '/tmp/tui-test.osmosis';
const SERVER = `python3 /opt/osmosis/fixtures/load/stream-server.py --port ${PORT} --listen 0.0.0.0`;
const ESCAPE = '\u001b';
const COLOURS = new RegExp(`${ESCAPE}\\[(?:[0-9;]*;)?(?:3[0-8]|9[0-7])[;m]`);

const tmux = async (...args: string[]) => (await execOn(ON, ['tmux', '-L', 'tui-test', ...args])).stdout;
const keys = (...names: string[]) => tmux('send-keys', ...names);
const screenLines = async (...how: string[]) => (await tmux('capture-pane', '-p', ...how)).split('\n');
const screenText = async () => (await screenLines()).join('\n');
const sees = (text: string | RegExp) => expect.poll(screenText, { timeout: SEEN_MS_MAX }).toMatch(text);
const isAlternate = async () => (await tmux('display-message', '-p', '#{alternate_on}')).trim() === '1';

/** In a shell, which is there again when the display has ended. */
async function start(...environment: string[]): Promise<void> {
  await tmux('new-session', '-d', '-x', '80', '-y', '24', 'sh');
  await keys(`env ${environment.join(' ')} osmosis tui ssh://alpha ssh://beta; echo "status $?"`, 'Enter');
  await sees(/2 of 2 hosts up/);
  await sees(/tui-cell/);
}
const kill = () => execOn(ON, ['tmux', '-L', 'tui-test', 'kill-server'], { reject: false });

type Status = { cells: { name: string; pid: number }[] };
const cellsOn = async (host: 'alpha' | 'beta') =>
  (await statusOf<Status>(host)).cells.map(({ name }) => name);

describe('osmosis tui', () => {
  let client: StreamClient;
  leavesNothing();
  beforeAll(async () => {
    await osmosis(['run', '--on', 'ssh://alpha', '--name', 'tui-cell', '--', ...SERVER.split(' ')]);
    await untilListening('alpha', PORT);
    client = await startStreamClient({ server: 'alpha', port: PORT, connections: CONNECTIONS });
  });
  afterAll(async () => {
    await kill();
    expect(await client.stop()).toMatchObject({ ok: true, connections: CONNECTIONS, faults: [] });
    for (const host of ['alpha', 'beta']) await osmosis(['uncordon', `ssh://${host}`]);
    await endEverywhere(`^${SERVER}`);
    await execOn(ON, ['rm', '-f', FILE, `${FILE}.key`]);
  });

  it('lists hosts, cells and connections, live, at 80×24', async () => {
    await start();
    expect(await isAlternate()).toBe(true);
    await keys('Down');
    await sees(/▸ {3}tui-cell/);
    await sees(new RegExp(`${LAB_HOSTS.peer} +${FLOWS} flows +in +[1-9]`));
    const lines = await screenLines();
    expect(lines).toHaveLength(24);
    expect(lines[0]).toBe(' osmosis                                                2 of 2 hosts up, 1 cell');
    expect(lines[1]).toMatch(/^ {2}ssh:\/\/alpha +load \d+\.\d\d of \d+, [\d.]+ [kMGT]B free$/);
    expect(lines[2]).toMatch(
      new RegExp(`^▸ {3}tui-cell +\\d+ home +${FLOWS} flows {2}in [\\d.]+ [kM]?B/s, out [\\d.]+ [kM]?B/s$`),
    );
    expect(lines[23]).toBe(' ↑↓ select  m move  s suspend  r resume  d drain  h history  ? help  q quit');
    expect((await screenLines('-e')).join('\n')).toContain(`${ESCAPE}[7m`);
  });

  it('moves a cell: destination, plan, progress, result', async () => {
    await keys('m');
    await sees(/Move tui-cell from ssh:\/\/alpha to\n▸ ssh:\/\/beta/);
    await keys('Enter');
    await sees(/It can move\. Nothing has been touched\./);
    await keys('y');
    await sees(/✓ confirm[\s\S]*blackout[\s\S]*Moved: tui-cell runs at the destination/);
    await sees(`${FLOWS} connections moved, none lost.`);
    expect(await cellsOn('beta')).toEqual(['tui-cell']);
    await keys('Escape');
    await sees(new RegExp(`ssh://beta .*\\n.*tui-cell +\\d+ away +${FLOWS} flows`));
  });

  it('suspends and resumes', async () => {
    // What was selected has gone to the other host.
    await keys('Down', 'Down');
    await sees(/▸ {3}tui-cell/);
    await keys('s');
    await sees(/Suspend tui-cell of ssh:\/\/beta into which new file/);
    for (const _ of 'tui-cell.osmosis') await keys('BSpace');
    await keys('-l', FILE);
    await keys('Enter');
    await sees(/Suspended: tui-cell is in/);
    await keys('Escape', 'Up', 'Up', 'Up');
    await sees(/▸ ssh:\/\/alpha/);
    await keys('r');
    await keys('-l', FILE);
    await keys('Enter');
    await sees(/Resumed: tui-cell runs again/);
    expect(await cellsOn('alpha')).toEqual(['tui-cell']);
  });

  it('drains the selected host', async () => {
    await keys('Escape', 'd');
    await sees(/tui-cell +ssh:\/\/beta[\s\S]*y cordons the host and moves them/);
    await keys('y');
    await sees(/ssh:\/\/alpha is drained, and stays cordoned/);
    await keys('Escape');
    await sees(/ssh:\/\/alpha .*CORDONED/);
    await keys('u');
    await expect.poll(screenText, { timeout: SEEN_MS_MAX }).not.toMatch(/CORDONED/);
  });

  it('has a history and help, and resizes', async () => {
    await keys('h');
    await sees(
      /drain of ssh:\/\/alpha: 1 of 1 cells moved[\s\S]*resume [\s\S]*suspend tui-cell[\s\S]*move tui-cell/,
    );
    await keys('Escape', '?');
    await sees(/ctrl-c {6}undo what is under way/);
    await keys('Escape');
    await tmux('resize-window', '-x', '100', '-y', '30');
    await expect.poll(async () => (await screenLines())[29], { timeout: SEEN_MS_MAX }).toMatch(/q quit/);
    await tmux('resize-window', '-x', '30', '-y', '5');
    await sees(/make it 40×10/);
    await tmux('resize-window', '-x', '80', '-y', '24');
    await sees(/2 of 2 hosts up/);
  });

  it.each([
    ['q', /status 0/],
    ['C-c', /status 0/],
  ])('gives the terminal back on %s', async (key, status) => {
    await keys(key);
    await sees(status);
    expect(await isAlternate()).toBe(false);
    await kill();
    await start();
  });

  it('gives the terminal back when it is ended from outside', async () => {
    await execOn(ON, ['pkill', '-TERM', '-f', 'osmosis tui']);
    await sees(/status \d+/);
    expect(await isAlternate()).toBe(false);
    expect(await tmux('display-message', '-p', '#{cursor_flag}')).toBe('1');
    await kill();
  });

  it('has no colour where there is to be none', async () => {
    await start();
    await keys('m');
    await sees(/select a cell to move it/);
    expect((await screenLines('-e')).join('\n')).toMatch(COLOURS);
    await kill();
    await start('NO_COLOR=1');
    await keys('m');
    await sees(/select a cell to move it/);
    expect((await screenLines('-e')).join('\n')).not.toMatch(COLOURS);
    await kill();
  });
});
