/** Looks after the cells of this host: what has ended is taken away, with all that was made for it. */

import { type Flow, flowKey } from '../address.ts';
import type { AgentContext } from '../context.ts';
import { messageOf } from '../error.ts';
import { type SocketIndex, socketIndex } from '../proc/socket-index.ts';
import { inetSockets } from '../proc/sockets.ts';
import { isAlive, startTicks } from '../proc/tree.ts';
import { destroyLink, destroyNamespaces, isInitAlive } from './namespaces.ts';
import { NewFlowSweep } from './new-flows.ts';
import type { Cell, CellFlow } from './registry.ts';

const SWEEP_MS = 1_000;
/** Looking takes this part of a core at most: with 10,000 flows, and under load, one look takes 0.2 s. */
const LOOKING_SHARE = 1 / 10;
const REST_MS_MAX = 10_000;
/** Connections of a process that has ended get this long to say goodbye. */
const CLOSING_MS_MAX = 60_000;
/** A flow is forgotten when its socket is missing in this many sweeps in a row. */
const SWEEPS_MISSING_MAX = 3;

export class CellKeeper {
  readonly #context: AgentContext;
  readonly #onEnded: (cell: Cell, flows: readonly CellFlow[]) => void;
  readonly #endedAt = new Map<string, number>();
  readonly #missing = new Map<string, number>();
  readonly #newFlows: NewFlowSweep;
  #timer: NodeJS.Timeout | undefined;
  #sweeping = false;
  #restUntil = 0;

  /** `onEnded` is told of flows whose sockets have ended. */
  constructor(context: AgentContext, onEnded: (cell: Cell, flows: readonly CellFlow[]) => void) {
    this.#context = context;
    this.#onEnded = onEnded;
    this.#newFlows = new NewFlowSweep(context);
  }

  start(): void {
    this.#timer = setInterval(() => void this.#sweep(), SWEEP_MS);
  }

  stop(): void {
    clearInterval(this.#timer);
  }

  async #sweep(): Promise<void> {
    if (this.#sweeping || performance.now() < this.#restUntil) return;
    this.#sweeping = true;
    const before = process.cpuUsage();
    try {
      await this.#newFlows.look();
      for (const cell of this.#context.registry.all())
        if (!this.#context.registry.isLocked(cell.id)) await this.#look(cell);
      await this.#context.openings.look();
    } catch (error) {
      this.#context.log.warn(
        { error: messageOf(error) },
        'looking after the cells failed; it is tried again',
      );
    } finally {
      this.#sweeping = false;
      const { user, system } = process.cpuUsage(before);
      const rest_ms = (user + system) / 1_000 / LOOKING_SHARE;
      this.#restUntil = performance.now() + Math.min(rest_ms - SWEEP_MS, REST_MS_MAX);
    }
  }

  async #look(cell: Cell): Promise<void> {
    if (cell.init !== undefined && !isInitAlive(cell.init)) return this.#remove(cell);
    const sockets = (cell.init === undefined ? [] : inetSockets(cell.init.pid)).filter(
      ({ state }) => state !== 'time-wait',
    );
    if (isAlive(cell.pid) && startTicks(cell.pid) === cell.ticks)
      return this.#forgetEnded(cell, socketIndex(sockets));
    const endedAt = this.#endedAt.get(cell.id) ?? Date.now();
    this.#endedAt.set(cell.id, endedAt);
    const closing =
      cell.link !== undefined && sockets.some(({ state }) => state !== 'listen' && state !== 'close');
    if (!closing || Date.now() - endedAt > CLOSING_MS_MAX) await this.#remove(cell);
  }

  async #forgetEnded(cell: Cell, present: SocketIndex): Promise<void> {
    const known = cell.known ?? [];
    // At home there are no entries, but names.
    const flows = cell.link === undefined ? known : cell.flows;
    const ended = flows.filter((flow) => {
      const key = `${cell.id} ${flowKey(flow)}`;
      const missing = present.has(flow) ? 0 : (this.#missing.get(key) ?? 0) + 1;
      if (missing === 0 || missing >= SWEEPS_MISSING_MAX) this.#missing.delete(key);
      else this.#missing.set(key, missing);
      return missing >= SWEEPS_MISSING_MAX;
    });
    if (ended.length === 0) return;
    const gone = new Set(ended.map((flow) => flowKey(flow)));
    const entered = cell.flows.filter((flow) => gone.has(flowKey(flow)));
    this.#onEnded(cell, entered);
    await this.#context.datapath.removeLocals(entered);
    const isThere = (flow: Flow) => !gone.has(flowKey(flow));
    const now = this.#context.registry.get(cell.id) ?? cell;
    this.#context.registry.put({
      ...now,
      flows: now.flows.filter(isThere),
      known: (now.known ?? []).filter(isThere),
    });
  }

  async #remove(cell: Cell): Promise<void> {
    const { registry, log } = this.#context;
    log.info({ cell: cell.name }, 'the cell has ended');
    // Nobody enters anything for it any more.
    registry.lock(cell.id);
    try {
      await this.#takeOut(cell);
    } finally {
      registry.unlock(cell.id);
    }
  }

  async #takeOut(cell: Cell): Promise<void> {
    const { byes, datapath, labels, openings, registry, terminals } = this.#context;
    await openings.close(cell);
    // Whoever follows it, or carries its flows on for others, forgets it.
    if (cell.peers.length > 0) await byes.say(cell.id, cell.peers, () => registry.save(cell.id), 'ended');
    await datapath.removeLocals(cell.flows);
    if (cell.side !== 0) await datapath.removeSide(cell.side);
    if (cell.link !== undefined) {
      await datapath.removeInside(cell.link.ifindex);
      await destroyLink(cell.link.name);
    }
    if (cell.init !== undefined) await destroyNamespaces(cell.init);
    labels.release(cell.labels.map(({ protocol, wire }) => ({ protocol, port: wire.port })));
    terminals.ended(cell);
    registry.remove(cell.id);
    this.#endedAt.delete(cell.id);
    await datapath.removeIfEmpty();
  }
}
