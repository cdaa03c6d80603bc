/** Servers and clients of echo.ts in network namespaces. */
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { execa } from 'execa';
import { expect } from 'vitest';
import type { Endpoint, Protocol } from '../agent/address.ts';
import type { Namespace } from './namespaces.ts';

const ECHO = fileURLToPath(new URL('echo.ts', import.meta.url));

export class Echoes {
  readonly #started: { kill(): void }[] = [];

  /** Connected when it resolves; `echo(n)` resolves when n bytes have come back, `close` when the connection is closed. */
  async call(space: Namespace, protocol: Protocol, to: Endpoint, from: Endpoint) {
    const process = this.#start(space, 'call', protocol, to, from);
    const lines = createInterface(process.stdout)[Symbol.asyncIterator]();
    expect(await lines.next()).toEqual({ done: false, value: 'ready' });
    return {
      async echo(bytes: number): Promise<void> {
        process.stdin.write(`${bytes}\n`);
        const { value } = await lines.next();
        expect(value).toMatch(new RegExp(`^${bytes} `));
      },
      async close(): Promise<void> {
        process.stdin.end();
        await process;
      },
    };
  }

  async serve(space: Namespace, protocol: Protocol, at: Endpoint): Promise<void> {
    const lines = createInterface(this.#start(space, 'serve', protocol, at).stdout)[Symbol.asyncIterator]();
    expect(await lines.next()).toEqual({ done: false, value: 'ready' });
  }

  end(): void {
    for (const process of this.#started.splice(0)) process.kill();
  }

  #start(space: Namespace, role: 'serve' | 'call', protocol: Protocol, ...ends: Endpoint[]) {
    const endpoints = ends.flatMap(({ address, port }) => [address, String(port)]);
    const argv = [`--net=${space.path}`, '--', process.execPath, ECHO, role, protocol, ...endpoints];
    const child = execa('nsenter', argv, { stdin: 'pipe', buffer: false, reject: false, stderr: 'inherit' });
    this.#started.push(child);
    return child;
  }
}
