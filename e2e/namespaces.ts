/** Network namespaces for one test file, each held by a process, so that they go when the test does. */
import { readlink } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { execa, type ResultPromise } from 'execa';

const OPTIONS = { reject: false, buffer: false } as const;
const HOLD_MS_MAX = 300_000;

export type Namespace = {
  readonly path: string;
  /** Runs a program in it; fails where the program does. */
  run(file: string, ...argv: string[]): Promise<string>;
  /** One line of a small script a call, each an argv without spaces in it. */
  ip(...lines: string[]): Promise<void>;
  ifindex(device: string): Promise<number>;
  mac(device: string): Promise<string>;
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
  const run = async (file: string, ...argv: string[]) =>
    (await execa('nsenter', [`--net=${path}`, '--', file, ...argv])).stdout;
  const show = async (device: string): Promise<{ ifindex: number; address: string }> =>
    JSON.parse(await run('ip', '-j', 'link', 'show', 'dev', device))[0];
  return {
    path,
    run,
    async ip(...lines) {
      for (const line of lines) await run('ip', ...line.split(' '));
    },
    ifindex: async (device) => (await show(device)).ifindex,
    mac: async (device) => (await show(device)).address,
  };
}

/** The holder has started, but it may not have unshared yet. */
async function otherThanOwn(path: string): Promise<void> {
  const own = await readlink('/proc/self/ns/net');
  while ((await readlink(path)) === own) await sleep(1);
}
