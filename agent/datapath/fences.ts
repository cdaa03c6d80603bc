/** What is kept off, or passed on, while a cell leaves: new connections to its listeners, and what peers still say to it. */
import { type Endpoint, endpointText } from '../address.ts';
import { deleteLine, updateLine } from './bpftool.ts';
import { encodeForwardKey, encodeForwardValue, encodeListener } from './layout.ts';
import { forwardText, type Mirror } from './mirror.ts';
import type { Forward } from './model.ts';
import type { Access } from './rule-book.ts';
import { FORWARDS_MAX, full, LISTENERS_MAX } from './table.ts';

const SET = Uint8Array.of(1, 0, 0, 0);

export class Fences {
  readonly #access: Pick<Access, 'pinDir' | 'write'>;

  constructor(access: Pick<Access, 'pinDir' | 'write'>) {
    this.#access = access;
  }

  async raise({ listeners }: Mirror, endpoints: readonly Endpoint[], signal?: AbortSignal): Promise<void> {
    const { pinDir, write } = this.#access;
    const added = endpoints.filter((endpoint) => !listeners.has(endpointText(endpoint)));
    if (listeners.size + added.length > LISTENERS_MAX) throw full(`${LISTENERS_MAX} fenced listeners`);
    for (const endpoint of added) listeners.set(endpointText(endpoint), endpoint);
    const line = (endpoint: Endpoint) => updateLine(pinDir, 'listeners', encodeListener(endpoint), SET);
    await write(added.map(line), signal);
  }

  async lower({ listeners }: Mirror, endpoints: readonly Endpoint[], signal?: AbortSignal): Promise<void> {
    const { pinDir, write } = this.#access;
    const removed = endpoints.filter((endpoint) => listeners.delete(endpointText(endpoint)));
    await write(
      removed.map((endpoint) => deleteLine(pinDir, 'listeners', encodeListener(endpoint))),
      signal,
    );
  }

  async forward(mirror: Mirror, forwards: readonly Forward[], signal?: AbortSignal): Promise<void> {
    const { pinDir, write } = this.#access;
    if (mirror.forwards.size + forwards.length > FORWARDS_MAX) throw full(`${FORWARDS_MAX} forwards`);
    for (const forward of forwards) mirror.forwards.set(forwardText(forward), forward);
    const line = (forward: Forward) =>
      updateLine(pinDir, 'forwards', encodeForwardKey(forward), encodeForwardValue(forward));
    await write(forwards.map(line), signal);
  }

  async endForward(mirror: Mirror, forwards: readonly Forward[], signal?: AbortSignal): Promise<void> {
    const { pinDir, write } = this.#access;
    const removed = forwards.filter((forward) => mirror.forwards.delete(forwardText(forward)));
    await write(
      removed.map((forward) => deleteLine(pinDir, 'forwards', encodeForwardKey(forward))),
      signal,
    );
  }
}
