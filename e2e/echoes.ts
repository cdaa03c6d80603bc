/** Servers and clients of echo.ts in network namespaces. */
import { fileURLToPath } from 'node:url';
import { expect } from 'vitest';
import type { Endpoint, Protocol } from '../agent/address.ts';
import type { Namespace, Told } from './namespaces.ts';

const ECHO = fileURLToPath(new URL('echo.ts', import.meta.url));

export class Echoes {
  readonly #started: Told[] = [];
  readonly #cache: string;

  /** `cache`: a directory for compiled code, which halves what the start of one costs. */
  constructor(cache: string) {
    this.#cache = cache;
  }

  /**
   * Connected when it resolves. `say(n)` answers with the line that comes of n bytes, `echo(n)` resolves when they have come
   * back, `close` when the connection is closed.
   */
  async call(space: Namespace, protocol: Protocol, to: Endpoint, from: Endpoint) {
    const client = await this.#start(space, 'call', protocol, to, from);
    const say = async (bytes: number): Promise<string> => {
      client.tell(String(bytes));
      return await client.next();
    };
    return {
      say,
      async echo(bytes: number): Promise<void> {
        expect(await say(bytes)).toMatch(new RegExp(`^${bytes} \\d+$`));
      },
      close: () => client.finish(),
    };
  }

  /** Listens when it resolves. */
  async serve(space: Namespace, protocol: Protocol, at: Endpoint): Promise<Told> {
    return await this.#start(space, 'serve', protocol, at);
  }

  /** Their ports are free again when it resolves. */
  async end(): Promise<void> {
    await Promise.all(this.#started.splice(0).map((process) => process.kill()));
  }

  async #start(space: Namespace, role: 'serve' | 'call', protocol: Protocol, ...ends: Endpoint[]) {
    const endpoints = ends.flatMap(({ address, port }) => [address, String(port)]);
    const node = ['env', `NODE_COMPILE_CACHE=${this.#cache}`, process.execPath] as const;
    const started = space.start(...node, ECHO, role, protocol, ...endpoints);
    this.#started.push(started);
    expect(await started.next()).toBe('ready');
    return started;
  }
}
