/** What is new after a move: clients that come to where a server is published, and connections that a process opens itself. */
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { execOn, LAB_HOSTS, LAB_HOSTS6, type LabHost, spawnOn } from '../fixtures/lab/hosts.ts';
import { untilListening } from '../fixtures/load/control.ts';
import { startLines, startTreeServer, untilSaid } from '../fixtures/load/lines.ts';
import { endEverywhere, MOVE_HOSTS } from '../fixtures/load/processes.ts';
import { migrateArgs, move, osmosis } from './cli.ts';
import { leavesNothing } from './traces.ts';

const BETWEEN_MS = 400;
const SAID_MS_MAX = 10_000;

leavesNothing();

type Published = { published: { protocol: string; wire: { address: string; port: number } }[] };

describe('a published server', () => {
  const PORT = 7500;

  it('is reached by anyone, with and without an agent; those with one stay on when it moves on and home', async () => {
    await using server = await startTreeServer('alpha', PORT);
    await using old = await startLines('peer', [`alpha:${PORT}`]);
    const first = await move(server.pid, 'alpha', 'beta', '--publish', String(PORT));
    expect((first as unknown as Published).published).toMatchObject([
      { protocol: 'tcp', wire: { address: LAB_HOSTS.beta, port: PORT } },
    ]);
    const legacy = await startLines('legacy', [`beta:${PORT}`]);
    await using near = await startLines('beta', [`beta:${PORT}`]);
    await using back = await startLines('alpha', [`beta:${PORT}`]);
    await using peer = await startLines('peer', [`beta:${PORT}`]);
    await sleep(BETWEEN_MS);
    const { stdout } = await osmosis(['ps', 'ssh://beta']);
    expect(stdout).toContain(`published at tcp ${LAB_HOSTS.beta}:${PORT}`);
    const { object } = await osmosis(migrateArgs(first.cell, 'beta', 'gamma', '--dry-run'));
    expect(object).toMatchObject({ ok: false, code: 'LEGACY_PEERS' });
    expect(object.message).toContain(LAB_HOSTS.legacy);
    expect(await legacy.stop()).toMatchObject({ ok: true, faults: [] });
    const second = await move(first.cell, 'beta', 'gamma');
    expect(second.flows).toEqual({ moved: 40, relayed: 0, lost: 0 });
    await sleep(BETWEEN_MS);
    expect((await move(first.cell, 'gamma', 'alpha')).flows.moved).toBe(40);
    await sleep(BETWEEN_MS);
    expect((await move(first.cell, 'alpha', 'gamma')).flows.moved).toBe(40);
    await sleep(BETWEEN_MS);
    for (const load of [old, peer, near, back])
      expect(await load.stop()).toMatchObject({ ok: true, faults: [] });
  });

  it('is published and taken back later, and refused by name', async () => {
    await using server = await startTreeServer('alpha', PORT + 1);
    await using _old = await startLines('peer', [`alpha:${PORT + 1}`]);
    const { cell } = await move(server.pid, 'alpha', 'beta');
    const publish = (...args: string[]) =>
      osmosis(['publish', cell, '--on', 'ssh://beta', '--json', ...args]);
    const held = await spawnOn('beta', ['python3', '-m', 'http.server', String(PORT + 2)]);
    await untilListening('beta', PORT + 2);
    for (const [spec, why] of [
      [`${PORT + 2}`, `tcp port ${PORT + 2} is in use at the destination`],
      [`10.77.3.2:${PORT + 1}`, '10.77.3.2 is no address of the destination'],
      [`${PORT + 1}=9`, 'has no listener at port 9'],
      ['40001', 'one of those that Osmosis needs itself'],
    ] as const)
      expect((await publish(spec)).object).toMatchObject({
        ok: false,
        message: expect.stringContaining(why),
      });
    await execOn('beta', ['kill', String(held.pid)]);
    const spec = `${PORT + 3}`;
    expect((await publish(spec, '--dry-run')).object).toMatchObject({
      ok: true,
      changed: [{ wire: { port: PORT + 3 } }],
    });
    expect((await publish(spec)).object).toMatchObject({
      ok: true,
      published: [{ wire: { port: PORT + 3 } }],
    });
    await using client = await startLines('peer', [`beta:${spec}`]);
    const listen = ['-c', `import socket; s = socket.socket(); s.bind(("0.0.0.0", ${spec}))`];
    const other = await execOn('beta', ['python3', ...listen], { reject: false });
    expect(other.stderr).toContain('Address already in use');
    expect((await publish(spec, '--end')).object).toMatchObject({ ok: true, published: [] });
    const probe = ['-c', `import socket; socket.create_connection(("${LAB_HOSTS.beta}", ${spec}), 3)`];
    expect((await execOn('peer', ['python3', ...probe], { reject: false })).stderr).toContain('refused');
    expect(await client.stop()).toMatchObject({ ok: true, faults: [] });
    const home = await osmosis(migrateArgs(cell, 'beta', 'alpha', '--publish', spec, '--dry-run'));
    expect(home.object.message).toContain('it comes home');
  });
});

describe('a process that has moved', () => {
  const LOG = '/var/log/opener.log';
  /** Of some hundred datagrams, sent again: what was in a socket's queue when its process was frozen is lost. */
  const AGAIN_MAX = 8;
  const ECHO = `
import socket, sys
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
s.bind((sys.argv[1], int(sys.argv[2])))
while True: s.sendto(*s.recvfrom(2048))`;

  for (const [family, addresses, port] of [
    ['IPv4', LAB_HOSTS, 7510],
    ['IPv6', LAB_HOSTS6, 7511],
  ] as const) {
    it(`opens connections, which go on as it moves on and home: ${family}`, async () => {
      const address = addresses.peer;
      await using _server = await startTreeServer(
        'peer',
        port,
        'single',
        family === 'IPv6' ? '::' : '0.0.0.0',
      );
      const echo = await spawnOn('peer', ['python3', '-c', ECHO, address, String(port)]);
      await Promise.all(MOVE_HOSTS.map((host) => execOn(host, ['rm', '-f', LOG, `${LOG}.opened`])));
      const target = family === 'IPv6' ? `[${address}]:${port}` : `${address}:${port}`;
      const program = '/opt/osmosis/fixtures/load/opener.py';
      const { pid } = await spawnOn('alpha', ['python3', program, LOG, target]);
      await sleep(BETWEEN_MS);
      await using _echo = {
        [Symbol.asyncDispose]: async () =>
          void (await execOn('peer', ['kill', String(echo.pid)], { reject: false })),
      };
      await using _end = { [Symbol.asyncDispose]: () => endEverywhere(`opener.py .*${port}`) };
      let at = { cell: String(pid), pid, host: 'alpha' as LabHost };
      let [flows, opened] = [1, 0];
      for (const to of ['beta', 'gamma', 'alpha', 'beta'] as const) {
        const moved = await move(at.cell, at.host, to);
        expect(moved.flows).toEqual({ moved: flows, relayed: 0, lost: 0 });
        at = { ...moved, host: to };
        await execOn(to, ['kill', '-USR1', String(moved.pid)]);
        flows += 2;
        opened += 7;
        await untilSaid(to, `${LOG}.opened`, `^${opened}$`, SAID_MS_MAX);
      }
      await execOn('beta', ['kill', '-TERM', String(at.pid)]);
      const summary = JSON.parse(await untilSaid('beta', LOG, 'faults', SAID_MS_MAX));
      expect(summary).toMatchObject({ ok: true, faults: [], opened });
      expect(summary.again).toBeLessThan(AGAIN_MAX);
    });
  }
});
