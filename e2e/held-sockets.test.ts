/** TCP_USER_TIMEOUT of connections with a suspended cell, by the programs that a lab host's kernel lets set it. */
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { execa, type ResultPromise } from 'execa';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import type { TimeoutChange } from '../agent/datapath/socket-layout.ts';
import { containerName, requireEngine } from '../fixtures/lab/engine.ts';
import { execOn } from '../fixtures/lab/hosts.ts';

const HOST = 'gamma';
const ENDS = fileURLToPath(new URL('./held-sockets.py', import.meta.url));
const MODULE = '/opt/osmosis/agent/datapath/socket-timeouts.ts';
/** The kernel gives a closed socket up after 6 s with it. */
const ORPHAN_RETRIES = 4;
/** TIMEOUT_ENDLESS of osmosis.bpf.c. */
const ENDLESS = 0x7fffffff;
const PIPED = { stdin: 'pipe', buffer: false, reject: false } as const;
const WAIT = { timeout: 25_000, interval: 500 };

describe('sockets whose other end is suspended', () => {
  let owner: ResultPromise<typeof PIPED>;
  let lines: AsyncIterator<string>;
  let ports: { readonly server: number; readonly clients: readonly number[] };

  beforeAll(async () => {
    const { bin } = await requireEngine();
    const argv = ['exec', '-i', containerName(HOST), 'python3', '-c', readFileSync(ENDS, 'utf8')];
    owner = execa(bin, argv, PIPED);
    lines = createInterface(owner.stdout)[Symbol.asyncIterator]();
    ports = JSON.parse((await lines.next()).value);
  });

  afterAll(() => {
    owner.stdin.end();
  });

  it('have no timeout meanwhile, and get it back; what the process has set since stays', async () => {
    expect(await ask()).toEqual([2000, 0]);
    const lifted = await call('liftTimeouts', pairs());
    expect(byPort(lifted)).toEqual({ [port(0)]: 2000 });
    expect(await ask()).toEqual([0, 0]);
    expect(await call('liftTimeouts', pairs())).toEqual([]);

    await call('giveTimeoutsBack', lifted);
    expect(await ask()).toEqual([2000, 0]);

    await call('liftTimeouts', pairs());
    expect(await ask('5000')).toEqual([5000, 0]);
    await call('giveTimeoutsBack', lifted);
    expect(await ask()).toEqual([5000, 0]);
  });

  it('that have data in flight, or are closed, are kept, though nobody takes what they have sent last', async () => {
    const states = async () => (await execOn(HOST, ['ss', '-Htn', 'state', 'fin-wait-1'])).stdout;
    try {
      await execOn(HOST, ['sysctl', '-qw', `net.ipv4.tcp_orphan_retries=${ORPHAN_RETRIES}`]);
      await execOn(HOST, [
        'nft',
        `table inet held { chain in { type filter hook input priority 0; tcp dport ${ports.server} drop; }; }`,
      ]);
      // Data in flight: else it would count from its first repetition on, and be over when the cell is back.
      await ask('send');
      const sending = await call('liftTimeouts', pairs().slice(1, 2));
      expect(byPort(sending)).toEqual({ [port(1)]: 0 });
      expect((await ask()).at(1)).toBe(ENDLESS);
      await call('giveTimeoutsBack', sending);
      expect((await ask()).at(1)).toBe(0);

      await ask('close');
      expect(byPort(await call('liftTimeouts', pairs().slice(0, 3)))[port(2)]).toBe(0);
      expect(await states()).toContain(`:${port(3)} `);
      await vi.waitFor(async () => expect(await states()).not.toContain(`:${port(3)} `), WAIT);
      expect(await states()).toContain(`:${port(2)} `);
    } finally {
      await execOn(HOST, ['nft', 'delete table inet held'], { reject: false });
      await execOn(HOST, ['sysctl', '-qw', 'net.ipv4.tcp_orphan_retries=0']);
    }
  }, 40_000);

  function port(index: number): number {
    return ports.clients[index] ?? 0;
  }

  function pairs() {
    const remote = { address: '127.0.0.1', port: ports.server };
    return ports.clients.map((each) => ({ local: { address: '127.0.0.1', port: each }, remote }));
  }

  async function ask(set = ''): Promise<number[]> {
    owner.stdin.write(`${set}\n`);
    return JSON.parse((await lines.next()).value);
  }
});

function byPort(changes: readonly TimeoutChange[]): Record<number, number> {
  return Object.fromEntries(changes.map(({ local, wasMs }) => [local.port, wasMs]));
}

async function call(name: string, argument: unknown): Promise<TimeoutChange[]> {
  const code = `
    import { ${name} } from '${MODULE}';
    console.log(JSON.stringify((await ${name}('self', JSON.parse(process.argv[1]))) ?? []));`;
  const argv = ['node', '--input-type=module', '-e', code, JSON.stringify(argument)];
  return JSON.parse((await execOn(HOST, argv)).stdout);
}
