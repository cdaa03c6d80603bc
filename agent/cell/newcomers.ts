/** New flows that have come to a cell: looked after from time to time, and at its end. */
import type { AgentContext } from '../context.ts';
import { sayBye } from '../migration/bye.ts';
import { removeForwarding, takeNewcomers } from './forwarding.ts';
import type { Cell } from './registry.ts';

/** Reading them takes five programs. */
const LOOK_MS = 4_000;

export class Newcomers {
  readonly #context: AgentContext;
  readonly #lookedAt = new Map<string, number>();

  constructor(context: AgentContext) {
    this.#context = context;
  }

  /** They are flows of the cell from then on; the rules may create as many anew as have ended. */
  async take({ id, forwarding }: Cell): Promise<void> {
    if (forwarding === undefined || performance.now() - (this.#lookedAt.get(id) ?? 0) < LOOK_MS) return;
    this.#lookedAt.set(id, performance.now());
    await takeNewcomers(this.#context, id);
    await this.#context.datapath.removeCreated(() => false);
  }

  /** The cell is no more: whoever follows it, or carries its flows on for others, is told and forgets it. */
  async end(cell: Cell): Promise<void> {
    this.#lookedAt.delete(cell.id);
    const { datapath, registry, socket } = this.#context;
    await removeForwarding(datapath, cell);
    if (cell.peers.length > 0)
      await sayBye(socket, cell.id, cell.peers, () => registry.save(cell.id), 'ended');
  }
}
