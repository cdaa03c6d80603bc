/** Endpoints that are wanted twice: what has moved is never in the way of what is there, and the other way round. */
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, it } from 'vitest';
import { execOn, type LabHost, spawnOn } from '../fixtures/lab/hosts.ts';
import { startStreamClient, startStreamServer, untilListening } from '../fixtures/load/control.ts';
import { startLines, startTreeServer } from '../fixtures/load/lines.ts';
import { migrateArgs, move, osmosis } from './cli.ts';
import { leavesNothing, leftSince, traces } from './traces.ts';

const BETWEEN_MS = 400;
/** As in agent/cell/labels.ts. */
const LABELS = { first: 40_000, count: 12_000 };
const INTACT = { ok: true, faults: [] };

leavesNothing();

it('one port of a peer serves it towards the old host, the new one, and on the connection that has moved', async () => {
  await using server = await startTreeServer('alpha', 7540);
  const one = { connections: 1, localPort: 45_001 };
  const old = await startLines('peer', ['alpha:7540'], one);
  const { cell } = await move(server.pid, 'alpha', 'beta');
  await using _successor = await startTreeServer('alpha', 7540);
  await using _neighbour = await startTreeServer('alpha', 7541);
  await using _beta = await startTreeServer('beta', 7540);
  const clients = [
    old,
    await startLines('peer', ['alpha:7541'], one),
    await startLines('peer', ['beta:7540'], one),
    await startLines('peer', ['alpha:7540'], { connections: 3 }),
  ];
  await sleep(BETWEEN_MS);
  await move(cell, 'beta', 'gamma');
  await sleep(BETWEEN_MS);
  await move(cell, 'gamma', 'beta');
  await sleep(BETWEEN_MS);
  for (const client of clients) expect(await client.stop()).toMatchObject(INTACT);
});

it('two cells that listen on the same port end on one host', async () => {
  const homes = ['alpha', 'gamma'] as const;
  await using alpha = await startTreeServer('alpha', 7542);
  await using gamma = await startTreeServer('gamma', 7542);
  const clients = await Promise.all(homes.map((home) => startLines('peer', [`${home}:7542`])));
  const cells = [await move(alpha.pid, 'alpha', 'beta'), await move(gamma.pid, 'gamma', 'beta')];
  await using _own = await startTreeServer('beta', 7542);
  clients.push(await startLines('peer', ['beta:7542']));
  await sleep(BETWEEN_MS);
  for (const [index, home] of homes.entries()) await move(cells[index]?.cell ?? '', 'beta', home);
  await sleep(BETWEEN_MS);
  for (const client of clients) expect(await client.stop()).toMatchObject(INTACT);
});

it('a server whose port at home is taken lives in a cell there until it is free', async () => {
  await using server = await startStreamServer('alpha', { port: 7543 });
  const on = (host: LabHost) => startStreamClient({ server: 'alpha', on: host, port: 7543, connections: 4 });
  await using far = await on('peer');
  await using near = await on('alpha');
  const { cell } = await move(server.pid, 'alpha', 'beta');
  const second = await startStreamServer('alpha', { port: 7543 });
  await using young = await on('peer');
  await move(cell, 'beta', 'alpha');
  expect(await isAtHome('alpha', cell)).toBe(false);
  await sleep(BETWEEN_MS);
  expect(await young.stop()).toMatchObject({ ok: true, resets: 0, out_of_order: 0 });
  await execOn('alpha', ['kill', String(second.pid)]);
  await move(cell, 'alpha', 'gamma');
  await sleep(BETWEEN_MS);
  await move(cell, 'gamma', 'alpha');
  expect(await isAtHome('alpha', cell)).toBe(true);
  await sleep(BETWEEN_MS);
  for (const client of [far, near])
    expect(await client.stop()).toMatchObject({ ok: true, resets: 0, out_of_order: 0 });
});

it('where the destination has no label free the process stays, and nothing is left there', async () => {
  await using server = await startStreamServer('alpha', { port: 7544 });
  await using client = await startStreamClient({ server: 'alpha', port: 7544 });
  const here = await traces(['beta']);
  const { pid } = await spawnOn('beta', [
    'python3',
    '-c',
    OCCUPY,
    String(LABELS.first),
    String(LABELS.count),
  ]);
  await untilListening('beta', LABELS.first + LABELS.count - 1);
  const { object } = await osmosis(migrateArgs(server.pid, 'alpha', 'beta'));
  expect(object).toMatchObject({ ok: false, code: 'LABELS_EXHAUSTED', owner: 'source' });
  expect(await leftSince(here)).toEqual({});
  expect(await server.locate()).toEqual([{ host: 'alpha', pid: server.pid }]);
  await execOn('beta', ['kill', String(pid)]);
  await move(server.pid, 'alpha', 'beta');
  await sleep(BETWEEN_MS);
  expect(await client.stop()).toMatchObject({ ok: true, resets: 0, out_of_order: 0 });
});

/** Listens on so many ports from the first on. */
const OCCUPY = `
import resource, signal, socket, sys
first, count = int(sys.argv[1]), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_NOFILE, (count + 100, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
sockets = [socket.create_server(('', first + index), backlog=1) for index in range(count)]
signal.pause()
`;

async function isAtHome(host: LabHost, name: string): Promise<boolean | undefined> {
  const { object } = await osmosis(['ps', `ssh://${host}`, '--json']);
  const [status] = object.hosts as { cells: { name: string; home: boolean }[] }[];
  return status?.cells.find((cell) => cell.name === name)?.home;
}
