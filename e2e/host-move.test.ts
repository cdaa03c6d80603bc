/** A host gets another address, twice, while its processes talk: their connections go on, and none of them is touched. */
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { execa } from 'execa';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { containerName, requireEngine } from '../fixtures/lab/engine.ts';
import { execOn, LAB_HOSTS, LAB_HOSTS6, SSH_CONFIG_PATH, spawnOn } from '../fixtures/lab/hosts.ts';
import {
  startDatagramClient,
  startDatagramServer,
  startStreamClient,
  startStreamServer,
} from '../fixtures/load/control.ts';
import { startLines, startMovableLines, startTreeServer, type Target } from '../fixtures/load/lines.ts';
import { endEverywhere, locate, MOVE_HOSTS } from '../fixtures/load/processes.ts';
import { migrateArgs, move, osmosis } from './cli.ts';
import { KILL_AGENT } from './inject.ts';
import { leftSince, type Traces, traces } from './traces.ts';

/** Networks of alpha's link: the lab's, and two more. */
type Network = 1 | 6 | 7;
/** Time with traffic in each of them. */
const THERE_MS = 1_500;
const MOVED_MS_MAX = 30_000;

const v4 = (network: Network, number: number) => `10.77.${network}.${number}`;
const v6 = (network: Network, number: number) => `fd77:0:0:${network}::${number}`;

async function ipOn(place: 'router' | 'alpha', ...lines: string[]): Promise<void> {
  const { bin } = await requireEngine();
  const input = `${lines.join('\n')}\n`;
  await execa(bin, ['exec', '-i', containerName(place), 'ip', '-force', '-batch', '-'], { input });
}

/** Where alpha is. */
let at: Network = 1;

const routerAddresses = (network: Network) => [
  `${v4(network, 1)}/24 dev alpha`,
  `${v6(network, 1)}/64 dev alpha nodad`,
];
const alphaAddresses = (network: Network) => [
  `${v4(network, 2)}/24 dev eth0`,
  `${v6(network, 2)}/64 dev eth0 nodad`,
];
const adding = (address: string) => `addr add ${address}`;
const deleting = (address: string) => `addr del ${address.replace(' nodad', '')}`;
const routes = (network: Network) =>
  [v4(network, 1), v6(network, 1)].map((router) => `route replace default via ${router}`);

/** A second device of alpha's, to a network of its own, as a cable that is plugged in; it has the default route while it is there. */
async function otherDevice(): Promise<AsyncDisposable> {
  const { bin } = await requireEngine();
  const pidOf = async (place: 'router' | 'alpha') =>
    (await execa(bin, ['inspect', '-f', '{{.State.Pid}}', containerName(place)])).stdout;
  const ends = ['wired', 'netns', await pidOf('alpha'), 'type', 'veth', 'peer', 'name', 'alpha-wired'];
  await execa('ip', ['link', 'add', 'name', ...ends, 'netns', await pidOf('router')]);
  await ipOn('router', 'addr add 10.77.8.1/24 dev alpha-wired', 'link set alpha-wired up');
  await ipOn('router', ...routerAddresses(at).map(deleting));
  await ipOn('alpha', 'link set wired up', 'addr add 10.77.8.2/24 dev wired');
  await ipOn('alpha', ...alphaAddresses(at).map(deleting), 'route replace default via 10.77.8.1');
  return {
    [Symbol.asyncDispose]: async () => {
      await ipOn('router', ...routerAddresses(at).map(adding));
      await ipOn('alpha', 'link del wired', ...alphaAddresses(at).map(adding), ...routes(at));
    },
  };
}

/**
 * `carried`: as a laptop in another network, the old one is gone before the new one is there. `leased`: the new address comes
 * first, as with a new lease. `left`: and the old one goes only once the peers have been told.
 */
type How = 'carried' | 'leased' | 'left';

async function changeTo(to: Network, how: How): Promise<void> {
  const from = at;
  if (from === to) return;
  at = to;
  const gone = alphaAddresses(from).map(deleting);
  const come = [...alphaAddresses(to).map(adding), ...routes(to)];
  if (how === 'left') {
    await ipOn('router', ...routerAddresses(to).map(adding));
    await ipOn('alpha', ...come);
    const leaving = [v4(from, 2), v6(from, 2)].flatMap((address) => ['--leave', address]);
    const { stdout } = await execOn('alpha', ['osmosis', 'keep', ...leaving, '--json']);
    expect(JSON.parse(stdout)).toMatchObject({ ok: true, untold: [] });
    await ipOn('alpha', ...gone);
    await ipOn('router', ...routerAddresses(from).map(deleting));
    return;
  }
  if (how === 'carried') {
    await ipOn('router', ...routerAddresses(from).map(deleting));
    await ipOn('alpha', ...gone);
    await ipOn('router', ...routerAddresses(to).map(adding));
    await ipOn('alpha', ...come);
  } else {
    await ipOn('router', ...routerAddresses(to).map(adding));
    await ipOn('alpha', ...come, ...gone);
    await ipOn('router', ...routerAddresses(from).map(deleting));
  }
}

type Kept = { cell: string; peers: { peer: string; flows: number; away: number; told: boolean }[] };

/** Keeps these processes, and answers with their cells. Said on the host itself: SSH to it is not our business here. */
async function keep(...args: string[]): Promise<string[]> {
  return (await kept(...args)).map(({ cell }) => cell);
}

async function kept(...args: string[]): Promise<Kept[]> {
  const { stdout } = await execOn('alpha', ['osmosis', 'keep', ...args, '--json']);
  return (JSON.parse(stdout) as { cells: Kept[] }).cells;
}

/** Until so many flows with each peer are kept, by another address or not, and the peers know. */
async function untilKept(
  cell: string,
  peers: Readonly<Record<string, number>>,
  isAway: boolean,
): Promise<void> {
  const wanted = Object.entries(peers).map(([peer, flows]) => ({
    peer,
    flows,
    away: isAway ? flows : 0,
    told: true,
  }));
  await vi.waitFor(
    async () => {
      const found = (await kept()).find((each) => each.cell === cell);
      for (const peer of wanted) expect(found?.peers).toContainEqual(expect.objectContaining(peer));
    },
    { timeout: MOVED_MS_MAX, interval: 100 },
  );
}

/** Until the peers know that a cell with a network of its own is at this address. */
async function untilTold(cell: string, address: string): Promise<void> {
  await vi.waitFor(
    async () => {
      const { stdout } = await execOn('alpha', ['osmosis', 'ps', '--json']);
      expect(stdout).toContain(`"address":"${address}"`);
      expect((await kept()).find((each) => each.cell === cell)?.peers).toMatchObject([{ told: true }]);
    },
    { timeout: MOVED_MS_MAX, interval: 100 },
  );
}

/** Until all peers know that a cell is at this address, and it is published there. */
async function untilOpen(cell: string, address: string, port: number): Promise<void> {
  await vi.waitFor(
    async () => {
      const { stdout } = await execOn('alpha', ['osmosis', 'ps', '--json']);
      expect(stdout).toContain(`"wire":{"address":"${address}","port":${port}}`);
      const peers = (await kept()).find((each) => each.cell === cell)?.peers ?? [];
      expect(peers.filter(({ told }) => !told)).toEqual([]);
    },
    { timeout: MOVED_MS_MAX, interval: 100 },
  );
}

/** For commands of this machine while alpha is at `address`. */
async function sshConfigWith(address: string): Promise<{ env: Record<string, string> } & AsyncDisposable> {
  const directory = await mkdtemp(join(tmpdir(), 'osmosis-host-move-'));
  const moved = (text: string) => text.replaceAll(LAB_HOSTS.alpha, address);
  const config = await readFile(SSH_CONFIG_PATH, 'utf8');
  const [knownHosts = ''] = /(?<=UserKnownHostsFile ).*/.exec(config) ?? [];
  await writeFile(join(directory, 'known_hosts'), moved(await readFile(knownHosts, 'utf8')));
  const file = join(directory, 'config');
  await writeFile(file, moved(config).replaceAll(knownHosts, join(directory, 'known_hosts')));
  return {
    env: { OSMOSIS_SSH_CONFIG: file },
    [Symbol.asyncDispose]: () => rm(directory, { recursive: true }),
  };
}

describe('a host that moves', () => {
  let before: Traces;
  beforeAll(async () => {
    before = await traces();
  });

  /** Takes alpha round, and waits each time until the peers know of all flows, so many by cell and peer. */
  async function goRound(
    how: How,
    kept: Readonly<Record<string, Readonly<Record<string, number>>>>,
  ): Promise<void> {
    const all = async (isAway: boolean) => {
      for (const [cell, peers] of Object.entries(kept)) await untilKept(cell, peers, isAway);
    };
    await all(false);
    for (const to of [6, 7, 1] as const) {
      await changeTo(to, how);
      await all(to !== 1);
      await sleep(THERE_MS);
    }
  }

  it('twice and back, with servers and clients over TCP: every byte once and in order', async () => {
    await using _four = await startTreeServer('peer', 7601);
    await using _six = await startTreeServer('peer', 7603, 'single', '::');
    await using server = await startStreamServer('alpha', { port: 7602, listen: '::' });
    await using load = await startStreamClient({ server: 'alpha', port: 7602, connections: 10 });
    await using load6 = await startStreamClient({ server: LAB_HOSTS6.alpha, port: 7602, connections: 10 });
    const six: Target = `${LAB_HOSTS6.peer as string}:7603`;
    const lines = await startMovableLines('alpha', ['peer:7601', six], { connections: 10 });
    const [serving = '', calling = ''] = await keep(String(server.pid), String(lines.pid));
    // One more, by which the load asks its server in the end.
    await goRound('carried', {
      [serving]: { [LAB_HOSTS.peer]: 11, [LAB_HOSTS6.peer]: 11 },
      [calling]: { [LAB_HOSTS.peer]: 5, [LAB_HOSTS6.peer]: 5 },
    });
    for (const each of [load, load6]) {
      const summary = await each.stop();
      expect(summary, JSON.stringify(summary)).toMatchObject({ ok: true });
    }
    expect(await lines.stop('alpha', lines.pid)).toMatchObject({ ok: true, faults: [] });
  });

  it('twice and back, with servers and clients over UDP: every request is answered, nothing comes twice', async () => {
    await using _server = await startDatagramServer('peer', { port: 7611 });
    await using own = await startDatagramServer('alpha', { port: 7612, connected: true, listen: '::' });
    await using shared = await startDatagramServer('alpha', { port: 7613, listen: '0.0.0.0' });
    const traffic = 'request' as const;
    const clients = { traffic, connected: 5, unconnected: 5 };
    await using load = await startDatagramClient({ server: 'alpha', port: 7612, ...clients });
    await using load6 = await startDatagramClient({ server: LAB_HOSTS6.alpha, port: 7612, ...clients });
    // What its server says from the new address, before the peers know that, is a stranger's.
    await using all = await startDatagramClient({
      server: 'alpha',
      port: 7613,
      traffic,
      connected: 10,
      unconnected: 0,
    });
    const log = '/tmp/asker-7611.log';
    const asker = ['python3', '/opt/osmosis/fixtures/load/datagram-asker.py', LAB_HOSTS.peer, '7611'];
    const { pid } = await spawnOn('alpha', [...asker, '--connected', '--log', log]);
    const [connected = '', unconnected = '', asking = ''] = await keep(
      String(own.pid),
      String(shared.pid),
      String(pid),
    );
    await goRound('leased', {
      [connected]: { [LAB_HOSTS.peer]: 10, [LAB_HOSTS6.peer]: 10 },
      [unconnected]: { [LAB_HOSTS.peer]: 10 },
      [asking]: { [LAB_HOSTS.peer]: 1 },
    });
    for (const each of [load, load6, all]) {
      const summary = await each.stop();
      expect(summary, summary.faults.join('\n')).toMatchObject({
        ok: true,
        duplicated: 0,
        misrouted: 0,
        unanswered: 0,
      });
      expect(summary.answered).toBe(summary.requests);
    }
    await execOn('alpha', ['kill', String(pid)]);
    await sleep(THERE_MS);
    const { stdout } = await execOn('alpha', ['cat', log]);
    const counts = JSON.parse(stdout) as Record<string, number>;
    expect(counts).toMatchObject({ wrong: 0, answered: counts.asked });
  });

  it('twice and back, to addresses that are there before the old ones go: no datagram is lost', async () => {
    await using server = await startDatagramServer('alpha', { port: 7614, connected: true, listen: '::' });
    await using stream = await startStreamServer('alpha', { port: 7615, listen: '::' });
    // A peer may take seconds to acknowledge, and there is room for so many only.
    const clients = { port: 7614, connected: 5, unconnected: 5, everyMs: 100 };
    await using load = await startDatagramClient({ server: 'alpha', ...clients });
    await using load6 = await startDatagramClient({ server: LAB_HOSTS6.alpha, ...clients });
    await using lines = await startStreamClient({ server: 'alpha', port: 7615, connections: 10 });
    const [datagrams = '', bytes = ''] = await keep(String(server.pid), String(stream.pid));
    await goRound('left', {
      [datagrams]: { [LAB_HOSTS.peer]: 10, [LAB_HOSTS6.peer]: 10 },
      [bytes]: { [LAB_HOSTS.peer]: 11 },
    });
    for (const each of [load, load6]) {
      const summary = await each.stop();
      expect(summary, summary.faults.join('\n')).toMatchObject({ ok: true, lost_in: 0, lost_out: 0 });
      expect(summary.received).toBeGreaterThan(300);
    }
    expect(await lines.stop()).toMatchObject({ ok: true, resets: 0 });
  });

  it('with a cell that has moved there, through a restart of both agents, and the cell moves on', async () => {
    await using server = await startStreamServer('beta', { port: 7621 });
    await using load = await startStreamClient({ server: 'beta', port: 7621, connections: 10 });
    const { cell } = await move(server.pid, 'beta', 'alpha');
    const all = (isAway: boolean) => untilKept(cell, { [LAB_HOSTS.peer]: 11 }, isAway);
    await all(true);
    await changeTo(6, 'carried');
    await all(true);
    await execOn('alpha', ['sh', '-c', KILL_AGENT]);
    await execOn('peer', ['sh', '-c', KILL_AGENT]);
    await sleep(THERE_MS);
    await changeTo(7, 'carried');
    await untilTold(cell, v4(7, 2));
    await changeTo(1, 'leased');
    await untilTold(cell, v4(1, 2));
    await sleep(THERE_MS);
    expect((await move(cell, 'alpha', 'beta')).flows).toEqual({ moved: 11, relayed: 0, lost: 0 });
    await sleep(THERE_MS);
    const summary = await load.stop();
    expect(summary, JSON.stringify(summary)).toMatchObject({ ok: true });
  });

  it('with a cell that is published, followed and relayed for: who comes then finds it where it is', async () => {
    await using server = await startTreeServer('beta', 7651);
    const before = await startLines('peer', ['beta:7651'], { connections: 2 });
    const relayed = await startLines('legacy', ['beta:7651'], { connections: 2 });
    const options = ['--publish', '7651', '--forward-new', '1m', '--relay-legacy'];
    const { cell } = await move(server.pid, 'beta', 'alpha', ...options);
    await untilKept(cell, { [LAB_HOSTS.peer]: 2, [LAB_HOSTS.beta]: 2 }, true);
    const loads = [before, relayed];
    let made = 0;
    for (const to of [6, 1] as const) {
      await changeTo(to, 'carried');
      await untilOpen(cell, v4(to, 2), 7651);
      // By the old address: a host with an agent, one without, which the cell's home relays for. By the new one: published.
      loads.push(
        await startLines('peer', ['beta:7651'], { connections: 2 }),
        await startLines('legacy', ['beta:7651'], { connections: 2 }),
        await startLines('gamma', [`${v4(to, 2)}:7651` as Target], { connections: 2 }),
      );
      made += 2;
      const [peer, gamma, beta] = [LAB_HOSTS.peer, LAB_HOSTS.gamma, LAB_HOSTS.beta];
      await untilKept(cell, { [peer]: 2 + made, [gamma]: made, [beta]: 2 + made }, true);
    }
    for (const load of loads) expect(await load.stop()).toMatchObject({ ok: true, faults: [] });
    await move(cell, 'alpha', 'beta');
  });

  it('and then the process moves to another host, and home again', async () => {
    await using server = await startStreamServer('alpha', { port: 7631 });
    await using load = await startStreamClient({ server: 'alpha', port: 7631, connections: 10 });
    const [cell = ''] = await keep(String(server.pid));
    await untilKept(cell, { [LAB_HOSTS.peer]: 11 }, false);
    await changeTo(6, 'carried');
    await untilKept(cell, { [LAB_HOSTS.peer]: 11 }, true);
    await using there = await sshConfigWith(v4(6, 2));
    const away = migrateArgs(cell, 'alpha', 'beta');
    expect((await osmosis(away, { env: there.env })).object).toMatchObject({ ok: true });
    await changeTo(1, 'carried');
    await sleep(THERE_MS);
    expect((await move(cell, 'beta', 'alpha')).flows).toEqual({ moved: 11, relayed: 0, lost: 0 });
    await untilKept(cell, { [LAB_HOSTS.peer]: 11 }, false);
    const summary = await load.stop();
    expect(summary, JSON.stringify(summary)).toMatchObject({ ok: true });
  });

  it('and a process at the other end that had moved moves on', async () => {
    await using server = await startTreeServer('beta', 7651);
    const lines = await startMovableLines('alpha', ['beta:7651'], { connections: 5 });
    const [cell = ''] = await keep(String(lines.pid));
    await untilKept(cell, { [LAB_HOSTS.beta]: 5 }, false);
    const moved = await move(server.pid, 'beta', 'gamma');
    await untilKept(cell, { [LAB_HOSTS.gamma]: 5 }, false);
    await changeTo(6, 'carried');
    await untilKept(cell, { [LAB_HOSTS.gamma]: 5 }, true);
    expect((await move(moved.cell, 'gamma', 'beta')).flows.moved).toBe(5);
    await untilKept(cell, { [LAB_HOSTS.beta]: 5 }, true);
    await changeTo(1, 'carried');
    await untilKept(cell, { [LAB_HOSTS.beta]: 5 }, false);
    await sleep(THERE_MS);
    expect(await lines.stop('alpha', lines.pid)).toMatchObject({ ok: true, faults: [] });
  });

  it('with more outgoing connections with one peer than a MOVE lists', async () => {
    const connections = 400;
    await using _server = await startTreeServer('peer', 7651);
    const lines = await startMovableLines('alpha', ['peer:7651'], { connections, everyMs: 250 });
    const [cell = ''] = await keep(String(lines.pid));
    await untilKept(cell, { [LAB_HOSTS.peer]: connections }, false);
    for (const to of [6, 1] as const) {
      await changeTo(to, 'carried');
      await untilKept(cell, { [LAB_HOSTS.peer]: connections }, to !== 1);
      await sleep(THERE_MS);
    }
    expect(await lines.stop('alpha', lines.pid)).toMatchObject({ ok: true, faults: [] });
  });

  it('to another device, while the process at the other end has moved as well', async () => {
    await using server = await startTreeServer('alpha', 7641);
    const lines = await startMovableLines('peer', ['alpha:7641'], { connections: 10 });
    const [cell = ''] = await keep(String(server.pid));
    await untilKept(cell, { [LAB_HOSTS.peer]: 10 }, false);
    const moved = await move(lines.pid, 'peer', 'gamma');
    await untilKept(cell, { [LAB_HOSTS.gamma]: 10 }, false);
    {
      await using _wired = await otherDevice();
      await untilKept(cell, { [LAB_HOSTS.gamma]: 10 }, true);
      await sleep(THERE_MS);
    }
    await untilKept(cell, { [LAB_HOSTS.gamma]: 10 }, false);
    await sleep(THERE_MS);
    expect((await move(moved.cell, 'gamma', 'peer')).flows.moved).toBe(10);
    const [{ pid } = { pid: 0 }] = await locate('lines-client.py', ['peer']);
    expect(await lines.stop('peer', pid)).toMatchObject({ ok: true, faults: [] });
  });

  afterAll(async () => {
    await changeTo(1, 'carried');
    for (const load of ['lines-client.py', 'datagram-asker.py'])
      await endEverywhere(load, [...MOVE_HOSTS, 'peer']);
    expect(await leftSince(before)).toEqual({});
    const { stdout } = await execOn('alpha', ['ip', '-o', 'addr', 'show', 'dev', 'lo']);
    expect(stdout.split('\n')).toHaveLength(2);
  });
});
