/** Peers without an agent: the host that the process leaves carries their connections on. */
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { execOn, LAB_HOSTS, LAB_HOSTS6, type LabHost } from '../fixtures/lab/hosts.ts';
import {
  startDatagramClient,
  startDatagramServer,
  startStreamClient,
  startStreamServer,
} from '../fixtures/load/control.ts';
import { startLines, startTreeServer } from '../fixtures/load/lines.ts';
import { killAgent, untilAgentsBack } from './agents.ts';
import { migrateArgs, move, osmosis } from './cli.ts';
import { replaceProgram } from './inject.ts';
import { leavesNothing } from './traces.ts';

const BETWEEN_MS = 500;
const FLOWS = 5;
const TALKING_MS = 20;
const RARELY_MS = 4_000;
const SILENT_MS = 60_000;
const INTACT = { ok: true, resets: 0, out_of_order: 0 };

leavesNothing();

describe.each([
  ['IPv4', LAB_HOSTS.alpha, '0.0.0.0', 7500],
  ['IPv6', LAB_HOSTS6.alpha, '::', 7501],
] as const)('streams over %s', (_family, address, listen, port) => {
  it('go on by way of the host that the server leaves, and directly once it is home', async () => {
    await using server = await startStreamServer('alpha', { port, listen });
    const on = (host: LabHost, connections: number) =>
      startStreamClient({ server: address, on: host, port, connections });
    await using legacy = await on('legacy', 8);
    await using peer = await on('peer', 5);
    await using local = await on('alpha', 3);
    // Each client has a control connection besides.
    const flows = { moved: 10, relayed: 9, lost: 0 };
    const { cell, ...first } = await move(server.pid, 'alpha', 'beta', '--relay-legacy');
    expect(first.flows).toEqual(flows);
    await using second = await startStreamServer('alpha', { port, listen });
    await using young = await on('legacy', 4);
    await sleep(BETWEEN_MS);
    expect((await move(cell, 'beta', 'gamma')).flows).toEqual(flows);
    await sleep(BETWEEN_MS);
    expect(await young.stop()).toMatchObject(INTACT);
    await execOn('alpha', ['kill', String(second.pid)]);
    await sleep(BETWEEN_MS);
    expect((await move(cell, 'gamma', 'alpha')).flows).toEqual(flows);
    await sleep(BETWEEN_MS);
    for (const client of [legacy, peer, local]) expect(await client.stop()).toMatchObject(INTACT);
  });
});

it('datagrams go on by way of the host that the server leaves', async () => {
  await using server = await startDatagramServer('alpha', { port: 7502 });
  await using legacy = await startDatagramClient({ server: 'alpha', on: 'legacy', port: 7502 });
  await using peer = await startDatagramClient({ server: 'alpha', port: 7502 });
  const { cell, flows } = await move(server.pid, 'alpha', 'beta', '--relay-legacy');
  expect(flows).toEqual({ moved: flows.moved, relayed: flows.moved, lost: 0 });
  await sleep(BETWEEN_MS);
  await move(cell, 'beta', 'alpha');
  await sleep(BETWEEN_MS);
  for (const client of [legacy, peer])
    expect(await client.stop()).toMatchObject({ ok: true, duplicated: 0, misrouted: 0, refused: 0 });
});

it('an undone move leaves them as they were, and the next one relays them', async () => {
  await using server = await startStreamServer('alpha', { port: 7503 });
  await using legacy = await startStreamClient({ server: 'alpha', on: 'legacy', port: 7503 });
  {
    await using _failing = await replaceProgram(
      'beta',
      'criu',
      'case $1 in restore) sleep 0.3; exit 1;; esac; exec "$REAL" "$@"',
    );
    const { object } = await osmosis(migrateArgs(server.pid, 'alpha', 'beta', '--relay-legacy'));
    expect(object).toMatchObject({ ok: false, code: 'RESTORE_FAILED', owner: 'source' });
  }
  await sleep(BETWEEN_MS);
  const { flows } = await move(server.pid, 'alpha', 'beta', '--relay-legacy');
  expect(flows).toEqual({ moved: 0, relayed: 11, lost: 0 });
  await sleep(BETWEEN_MS);
  expect(await legacy.stop()).toMatchObject(INTACT);
});

it('without the relaying agent they go on, and a further move works once it is back', async () => {
  await using server = await startStreamServer('alpha', { port: 7504 });
  await using legacy = await startStreamClient({ server: 'alpha', on: 'legacy', port: 7504 });
  const { cell } = await move(server.pid, 'alpha', 'beta', '--relay-legacy');
  await killAgent('alpha');
  await untilAgentsBack('alpha');
  expect((await move(cell, 'beta', 'gamma')).flows).toEqual({ moved: 0, relayed: 11, lost: 0 });
  await sleep(BETWEEN_MS);
  expect(await legacy.stop()).toMatchObject(INTACT);
});

describe('relays', () => {
  type Remote = { cell: string; relays: { peer: string; flows: number }[] };
  const relaysOf = async (host: LabHost, id: string) => {
    const { object } = await osmosis(['ps', `ssh://${host}`, '--json']);
    const [status] = object.hosts as { cells: { id: string }[]; remote_cells: Remote[] }[];
    return status?.remote_cells.find(({ cell }) => cell === id)?.relays ?? [];
  };
  const idOf = async (host: LabHost, name: string) => {
    const { object } = await osmosis(['ps', `ssh://${host}`, '--json']);
    const [status] = object.hosts as { cells: { id: string; name: string; flows: { by?: string }[] }[] }[];
    const cell = status?.cells.find((each) => each.name === name);
    expect(cell?.flows.map(({ by }) => by)).toEqual(Array(FLOWS).fill(LAB_HOSTS.alpha));
    return cell?.id ?? '';
  };
  const start = async (port: number, everyMs: number) => {
    const server = await startTreeServer('alpha', port);
    const client = await startLines('legacy', [`alpha:${port}`], { connections: FLOWS, everyMs });
    const { cell } = await move(server.pid, 'alpha', 'beta', '--relay-legacy');
    const id = await idOf('beta', cell);
    expect(await relaysOf('alpha', id)).toEqual([{ peer: LAB_HOSTS.legacy, flows: FLOWS }]);
    return { server, client, id, cell };
  };

  it('go after their connections were reset', async () => {
    const { server, client, id } = await start(7510, TALKING_MS);
    await using _server = server;
    await using _client = client;
    await execOn('legacy', ['ss', '-K', 'dst', LAB_HOSTS.alpha, 'dport', '=', ':7510']);
    await expect.poll(() => relaysOf('alpha', id), { timeout: 25_000, interval: 500 }).toEqual([]);
  });

  const end = async (id: string, ...hosts: LabHost[]) => {
    const args = ['relay', 'end', ...hosts.map((host) => `ssh://${host}`), '--json'];
    const dry = await osmosis([...args, '--cell', id.slice(0, 8), '--dry-run']);
    expect(dry.object).toMatchObject({ ok: true, dry_run: true });
    expect(JSON.stringify(dry.object)).toContain(`"flows":${FLOWS}`);
    expect(await relaysOf('alpha', id)).toHaveLength(1);
    expect(await osmosis([...args, '--cell', id])).toMatchObject({ exitCode: 0 });
    expect(await relaysOf('alpha', id)).toEqual([]);
  };
  const established = async (host: LabHost, port: number) =>
    (await execOn(host, ['ss', '-Htn', 'state', 'established', `dport = :${port}`])).stdout;

  it('end on demand, idle ones at once where the host of the cell is told as well', async () => {
    const { server, client, id } = await start(7511, SILENT_MS);
    await using _server = server;
    await using _client = client;
    await end(id, 'alpha', 'beta');
    expect(await established('legacy', 7511)).toBe('');
    const { ok, faults } = await client.stop();
    expect([ok, faults]).toEqual([false, Array(FLOWS).fill(expect.stringContaining('ConnectionResetError'))]);
  });

  it('end on demand where only the relaying host is there, and are not in the way of a move', async () => {
    const { server, client, id, cell } = await start(7512, RARELY_MS);
    await using _server = server;
    await using _client = client;
    await end(id, 'alpha');
    await move(cell, 'beta', 'gamma');
    // Whoever says something learns of it.
    await expect.poll(() => established('legacy', 7512), { timeout: 10_000 }).toBe('');
    const { ok, faults } = await client.stop();
    expect([ok, faults]).toEqual([false, Array(FLOWS).fill(expect.stringContaining('ConnectionResetError'))]);
  });
});
