/** Network namespaces for one test file, each held by a process, so that they go when the test does. */
import { readlink } from 'node:fs/promises';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { execa, type ResultPromise } from 'execa';

const OPTIONS = { reject: false, buffer: false } as const;
const TOLD = { ...OPTIONS, stdin: 'pipe', stderr: 'inherit' } as const;
const HOLD_MS_MAX = 300_000;

export type Namespace = {
  readonly path: string;
  /** Runs a program in it; fails where the program does. */
  run(file: string, ...argv: string[]): Promise<string>;
  /** Starts a program in it that is told lines and says lines. */
  start(file: string, ...argv: string[]): Told;
  /** Lines for ip(8), in order; fails at the first that does. */
  ip(...lines: string[]): Promise<void>;
  /** Asked for once: a device of a name is always the same. */
  ifindex(device: string): Promise<number>;
  mac(device: string): Promise<string>;
};

/** A program that runs until it is ended. */
export type Told = {
  tell(line: string): void;
  /** The next line that it says; rejects where it ends before that. */
  next(): Promise<string>;
  /** Ends its input, and resolves when it has ended itself. */
  finish(): Promise<void>;
  /** It has ended when this resolves. */
  kill(): Promise<void>;
};

export class Namespaces {
  readonly #holders: ResultPromise<typeof OPTIONS>[] = [];

  /** A fresh namespace with `lo` up. */
  async create(): Promise<Namespace> {
    // unshare(1) executes sleep(1) itself, so the process that was started is the one that holds.
    const holder = execa('unshare', ['--net', 'sleep', String(HOLD_MS_MAX / 1000)], OPTIONS);
    this.#holders.push(holder);
    const namespace = namespaceOf(`/proc/${holder.pid}/ns/net`);
    await otherThanOwn(namespace.path);
    await namespace.ip('link set lo up');
    return namespace;
  }

  async close(): Promise<void> {
    for (const holder of this.#holders) holder.kill('SIGKILL');
    await Promise.all(this.#holders);
  }
}

/** A veth pair between two namespaces, both ends up. */
export async function link(a: Namespace, aDevice: string, b: Namespace, bDevice: string): Promise<void> {
  const holder = b.path.split('/')[2];
  await a.ip(`link add ${aDevice} type veth peer name ${bDevice} netns ${holder}`, `link set ${aDevice} up`);
  await b.ip(`link set ${bDevice} up`);
}

function namespaceOf(path: string): Namespace {
  const argvOf = (file: string, argv: readonly string[]) => [`--net=${path}`, '--', file, ...argv];
  const run = async (file: string, ...argv: string[]) => (await execa('nsenter', argvOf(file, argv))).stdout;
  const known = new Map<string, Promise<{ readonly ifindex: number; readonly address: string }>>();
  const show = async (device: string) => {
    const shown =
      known.get(device) ?? run('ip', '-j', 'link', 'show', 'dev', device).then((json) => JSON.parse(json)[0]);
    known.set(device, shown);
    return await shown;
  };
  return {
    path,
    run,
    start: (file, ...argv) => toldOf(argv.join(' '), execa('nsenter', argvOf(file, argv), TOLD)),
    async ip(...lines) {
      await execa('nsenter', argvOf('ip', ['-batch', '-']), { input: `${lines.join('\n')}\n` });
    },
    ifindex: async (device) => (await show(device)).ifindex,
    mac: async (device) => (await show(device)).address,
  };
}

function toldOf(name: string, child: ResultPromise<typeof TOLD>): Told {
  const lines = createInterface(child.stdout)[Symbol.asyncIterator]();
  return {
    tell: (line) => void child.stdin.write(`${line}\n`),
    async next() {
      const { done, value } = await lines.next();
      if (done === true) throw new Error(`${name} has ended`);
      return value;
    },
    async finish() {
      child.stdin.end();
      await child;
    },
    async kill() {
      child.kill();
      await child;
    },
  };
}

/** The holder has started, but it may not have unshared yet. */
async function otherThanOwn(path: string): Promise<void> {
  const own = await readlink('/proc/self/ns/net');
  while ((await readlink(path)) === own) await sleep(1);
}
