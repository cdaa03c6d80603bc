/** Options of sockets through a move: the moved process itself says what it has, over connections that never stop asking. */
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { execOn, LAB_HOSTS, type LabHost, spawnOn } from '../fixtures/lab/hosts.ts';
import { migrateArgs, move, osmosis } from './cli.ts';
import { leftSince, type Traces, traces } from './traces.ts';

const PORT = 7210;
const ANSWERS_MS_MAX = 20_000;
const POLL_MS = 100;
const SERVER = fileURLToPath(new URL('./socket-options.py', import.meta.url));
const CLIENT = fileURLToPath(new URL('./socket-client.py', import.meta.url));

/** Everything here comes back, some of it by CRIU, the rest by us. The last connection has nothing set. */
const RESTORED = {
  listener: {
    TCP_MAXSEG: 1200,
    TCP_CONGESTION: 'reno',
    TCP_USER_TIMEOUT: 12_345,
    TCP_SAVE_SYN: 1,
    SO_MARK: 7,
    SO_PRIORITY: 4,
  },
  connections: [
    {
      TCP_CONGESTION: 'cubic',
      TCP_USER_TIMEOUT: 23_456,
      TCP_KEEPIDLE: 11,
      TCP_KEEPINTVL: 12,
      TCP_KEEPCNT: 3,
    },
    { TCP_SYNCNT: 3, TCP_NODELAY: 1, TCP_NOTSENT_LOWAT: 4096, TCP_WINDOW_CLAMP: 20_000 },
    { TCP_THIN_LINEAR_TIMEOUTS: 1, SO_MAX_PACING_RATE: 100_000_000, SO_SNDBUF: 30_000, SO_RCVBUF: 40_000 },
    { SO_KEEPALIVE: 1, SO_LINGER: [1, 5], SO_RCVTIMEO: [3, 0], SO_SNDTIMEO: [4, 0], SO_OOBINLINE: 1 },
    { SO_TXREHASH: 0, SO_MARK: 77, SO_PRIORITY: 5, IP_TOS: 16, IP_TTL: 33, SO_BINDTODEVICE: 'eth0' },
    {},
  ],
} as const;
/** Nothing can set these from outside: the plan names them. */
const LOST = {
  TCP_LINGER2: 9,
  TCP_INQ: 1,
  SO_TIMESTAMP: 1,
  SO_BUSY_POLL: 20,
  SO_ZEROCOPY: 1,
  IP_MTU_DISCOVER: 3,
  IP_RECVERR: 1,
  IP_MINTTL: 5,
} as const;
const LOST_LISTENER = { TCP_DEFER_ACCEPT: 10, TCP_FASTOPEN: 5 } as const;
/** They depend on the moment: who spoke last, which CPU took a packet, what is measured. */
const MOMENTARY = ['INFO', 'TCP_QUICKACK', 'SO_INCOMING_CPU'];
/** Of a connection this is the segment size of the moment; of a listener it is the option. */
const MOMENTARY_CONNECTED = ['TCP_MAXSEG'];
/** These grow with the traffic. */
const AUTOTUNED = ['SO_SNDBUF', 'SO_RCVBUF', 'TCP_WINDOW_CLAMP'];

type Values = Record<string, unknown>;
type Report = { readonly listener: Values; readonly connections: readonly Values[] };

let before: Traces;

beforeAll(async () => {
  before = await traces();
  for (const host of ['alpha', 'beta'] as const) await install(host, SERVER);
  await install('peer', CLIENT);
});

afterAll(async () => {
  for (const host of ['alpha', 'beta'] as const)
    await execOn(host, ['pkill', '-f', '^python3 .*socket-options.py'], { reject: false });
  await execOn('peer', ['pkill', '-f', '^python3 .*socket-client.py'], { reject: false });
});

async function install(host: LabHost, path: string): Promise<void> {
  await execOn(host, ['tee', `/tmp/${path.split('/').at(-1)}`], { input: readFileSync(path) });
}

/** A server with such sockets, and a client that holds connections to it. */
class Scene {
  readonly pid: number;
  readonly #directory: string;

  private constructor(pid: number, directory: string) {
    this.pid = pid;
    this.#directory = directory;
  }

  static async start(port: number, scene: { connections: readonly object[]; listener?: object }) {
    const { pid } = await spawnOn('alpha', [
      'python3',
      '/tmp/socket-options.py',
      String(port),
      JSON.stringify(scene),
    ]);
    await untilListening(port);
    const directory = `/tmp/asked-${port}`;
    await execOn('peer', ['rm', '-rf', directory]);
    await execOn('peer', ['mkdir', directory]);
    const count = String(scene.connections.length);
    const argv = ['python3', '/tmp/socket-client.py', LAB_HOSTS.alpha, String(port), count, directory];
    await spawnOn('peer', argv);
    return new Scene(pid, directory);
  }

  async ask(number: number): Promise<void> {
    await execOn('peer', ['touch', `${this.#directory}/ask-${number}`]);
  }

  /** From now on, or no longer, the client asks without a pause. */
  async busy(on: boolean): Promise<void> {
    await execOn('peer', [on ? 'touch' : 'rm', `${this.#directory}/busy`]);
  }

  async answer(number: number): Promise<Report> {
    const deadline = Date.now() + ANSWERS_MS_MAX;
    while (Date.now() < deadline) {
      const path = `${this.#directory}/answer-${number}`;
      const { stdout } = await execOn('peer', ['cat', path], { reject: false });
      if (stdout !== '') return JSON.parse(stdout) as Report;
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    }
    throw new Error(`no answer ${number} after ${ANSWERS_MS_MAX} ms`);
  }
}

async function untilListening(port: number): Promise<void> {
  const deadline = Date.now() + ANSWERS_MS_MAX;
  while (Date.now() < deadline) {
    const { stdout } = await execOn('alpha', ['ss', '-Htln', 'sport', '=', `:${port}`]);
    if (stdout !== '') return;
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
  throw new Error(`nothing listens on port ${port}`);
}

/** Option → what it was and what it is, where that differs. */
function changes(was: Report, is: Report, except: readonly string[] = []): Record<string, unknown> {
  const ignored = (socket: string) =>
    new Set([...MOMENTARY, ...(socket === 'listener' ? [] : MOMENTARY_CONNECTED), ...except]);
  const sockets = [
    ['listener', was.listener, is.listener] as const,
    ...was.connections.map((each, index) => [`${index}`, each, is.connections[index] ?? {}] as const),
  ];
  const found = sockets.flatMap(([socket, left, right]) =>
    Object.keys(left)
      .filter(
        (name) => !ignored(socket).has(name) && JSON.stringify(left[name]) !== JSON.stringify(right[name]),
      )
      .map((name) => [`${socket} ${name}`, `${left[name]} → ${right[name]}`]),
  );
  return Object.fromEntries(found);
}

describe('a server with options set on its sockets', () => {
  it('has them all after a move, and after another while it is asked without a pause', async () => {
    const scene = await Scene.start(PORT, RESTORED);
    await scene.ask(0);
    const was = await scene.answer(0);
    expect(was.connections[0]).toMatchObject(RESTORED.connections[0]);
    const { pid } = await move(scene.pid, 'alpha', 'beta');
    await scene.ask(1);
    const there = await scene.answer(1);
    expect(changes(was, there)).toEqual({});
    await scene.busy(true);
    await move(pid, 'beta', 'alpha');
    await scene.busy(false);
    await scene.ask(2);
    const back = await scene.answer(2);
    expect(changes(was, back, AUTOTUNED)).toEqual({});
    expect(back.connections[2]).toMatchObject({
      SO_SNDBUF: was.connections[2]?.SO_SNDBUF,
      SO_RCVBUF: was.connections[2]?.SO_RCVBUF,
    });
  });

  it('is told in the plan which ones it will lose', async () => {
    const scene = await Scene.start(PORT + 1, { listener: LOST_LISTENER, connections: [LOST, {}] });
    await scene.ask(0);
    const was = await scene.answer(0);
    const plan = await osmosis(migrateArgs(scene.pid, 'alpha', 'beta', '--dry-run'));
    expect(plan.exitCode).toBe(0);
    for (const name of ['TCP_DEFER_ACCEPT', 'TCP_FASTOPEN', ...Object.keys(LOST)])
      expect(plan.stdout).toContain(name);
    expect(plan.stdout).toContain(`process ${scene.pid} fd `);
    await move(scene.pid, 'alpha', 'beta');
    await scene.ask(1);
    const lost = changes(was, await scene.answer(1));
    const expected = Object.keys(LOST).map((name) => `0 ${name}`);
    expect(Object.keys(lost).sort()).toEqual(
      [...expected, 'listener TCP_DEFER_ACCEPT', 'listener TCP_FASTOPEN'].sort(),
    );
  });

  it('leaves nothing behind', async () => {
    for (const host of ['alpha', 'beta'] as const)
      await execOn(host, ['pkill', '-f', '^python3 .*socket-options.py'], { reject: false });
    await execOn('peer', ['pkill', '-f', '^python3 .*socket-client.py'], { reject: false });
    expect(await leftSince(before)).toEqual({});
  });
});
